//! What the parsers of text forms share: a line lexer and errors with a place.

mod lexer;
mod span;

pub use lexer::{Line, Token, lex};
pub use span::{ParseError, Span};
