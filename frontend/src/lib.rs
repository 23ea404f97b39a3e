//! Importers: model bytes to Graph.
