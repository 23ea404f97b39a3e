//! Input contract of the compiler: Graph, types, shapes, entity ids, origins.
