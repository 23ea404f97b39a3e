//! Input contract of the compiler: a [`Graph`] of statically shaped, fully resolved operators.
//!
//! Importers build a [`Graph`] with [`GraphBuilder`]; the compiler takes a [`Verified`]`<Graph>`. Nothing here knows a file format.
//!
//! - [`entity`]: typed ids and the arenas they index, used by every IR of the project
//! - [`op`]: the closed set of operators, each with its shapes and dtypes
//! - [`infer`]: result shapes of an operator, shared by builder and verifier
//! - [`verify`]: the numbered invariants of a graph
//! - [`mod@print`]: the `.graph` text form

pub mod build;
mod dtype;
pub mod entity;
mod graph;
pub mod infer;
pub mod op;
mod origin;
pub mod print;
mod shape;
mod verified;
pub mod verify;
mod weights;

pub use build::{ConstRef, FoldFn, GraphBuilder};
pub use dtype::DType;
pub use entity::{EntityId, IdSet, IdVec, SideTable};
pub use graph::{Const, Graph, Input, Node, NodeId, Output, State, ValueData, ValueDef, ValueId};
pub use infer::OpError;
pub use op::Op;
pub use origin::{Origin, OriginId};
pub use shape::Shape;
pub use verified::{Verified, Verify, VerifyError, VerifyErrors};
pub use weights::Weights;
