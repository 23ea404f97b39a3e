//! The instruction table: one row per opcode, from which encode, decode, disassembly and docs/ISA.md derive.

/// Calls a macro with the whole instruction table. Each row is
/// `(Variant, code, "mnemonic", Unit, "operands", "semantics")`.
#[macro_export]
macro_rules! for_each_op {
    ($m:ident) => {
        $m! {
            (Read, 0, "read", Mem, "row -> st", "one access of a row (or a word of it) onto the belt");
            (Write, 1, "write", Mem, "st -> row", "the belt's vector (or word) into a row");
            (Gather, 2, "gather", Mem, "idx st, row, limit -> st", "row + min(idx as u32, limit - 1) * row_stride; idx is the i32 in lane 0; output in idx's direction");
            (Scatter, 3, "scatter", Mem, "st, idx st, row, limit", "writes the row that gather would read");
            (LoadRow, 4, "load.row", MxmLoad, "belts, scales st, columns [n0,n1), rows [k0,k1)", "vector i becomes row k0+i (of i4, rows k0+2i and k0+2i+1) of the shadow tile in these columns, times the scales of its issue; lanes are columns");
            (LoadCol, 5, "load.col", MxmLoad, "belts, columns [n0,n1), rows [k0,k1)", "vector i becomes column n0+i of the shadow tile with this k window; lanes are k");
            (Mul, 6, "mul", MxmMul, "x st, acc -> out", "each loaded column: acc = fma(x[k], w[k][n], acc), k ascending in its window; other columns pass acc through");
            (Alu, 7, "alu", Vxm, "a, b, c -> forward, st", "one operation on every lane");
            (Fold, 8, "fold", Vxm, "a -> forward, st", "running add, mul, min or max over the vectors of the innermost dimensions");
            (Permute, 9, "permute", Sxm, "x st, map st -> st", "y[l] = map[l] == 0xffff ? fill : x[map[l]]");
            (Transpose, 10, "transpose", Sxm, "m vectors -> n vectors", "y_i[j] = x_j[i]");
            (Reduce, 11, "reduce", Sxm, "x st -> st", "add, mul, min or max over each aligned segment of lanes by the stated tree; result on all lanes of the segment");
            (Send, 12, "send", C2cSend, "word st", "word onto the link");
            (Recv, 13, "recv", C2cRecv, "-> word st", "the word sent exactly one link latency before");
        }
    };
}

macro_rules! define_opcodes {
    ($(($variant:ident, $code:literal, $mnemonic:literal, $unit:ident, $operands:literal, $semantics:literal);)*) => {
        /// Opcode of a run.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Opcode {
            $(#[doc = concat!("`", $mnemonic, "`: `", $operands, "`")] $variant = $code,)*
        }

        impl Opcode {
            /// All opcodes in encoding order.
            pub const ALL: &'static [Opcode] = &[$(Opcode::$variant,)*];

            /// Mnemonic as printed by the disassembler.
            pub const fn mnemonic(self) -> &'static str {
                match self { $(Opcode::$variant => $mnemonic,)* }
            }

            /// The kind of queue that issues it.
            pub const fn unit(self) -> UnitKind {
                match self { $(Opcode::$variant => UnitKind::$unit,)* }
            }

            /// Operand summary, for the reference manual.
            pub const fn operands(self) -> &'static str {
                match self { $(Opcode::$variant => $operands,)* }
            }

            /// One-line semantics, for the reference manual.
            pub const fn semantics(self) -> &'static str {
                match self { $(Opcode::$variant => $semantics,)* }
            }

            /// Decodes an opcode byte.
            pub fn from_u8(v: u8) -> Option<Opcode> {
                match v { $($code => Some(Opcode::$variant),)* _ => None }
            }
        }
    };
}
for_each_op!(define_opcodes);

/// Kind of queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnitKind {
    /// A bank of a slice group.
    Mem,
    /// Tile loads of a matrix plane.
    MxmLoad,
    /// Products of a matrix plane.
    MxmMul,
    /// An ALU of the VXM.
    Vxm,
    /// The lane-move unit of a hemisphere.
    Sxm,
    /// Sending end of a link.
    C2cSend,
    /// Receiving end of a link.
    C2cRecv,
}

/// Calls a macro with the table of ALU operations: `(Variant, code, "name", arity, cost in ALUs, latency key)`.
#[macro_export]
macro_rules! for_each_alu_op {
    ($m:ident) => {
        $m! {
            (Add, 0, "add", 2, 1, AluSimple); (Sub, 1, "sub", 2, 1, AluSimple);
            (Mul, 2, "mul", 2, 1, AluMul); (Fma, 3, "fma", 3, 1, AluMul);
            (Div, 4, "div", 2, 4, AluDiv); (Min, 5, "min", 2, 1, AluSimple); (Max, 6, "max", 2, 1, AluSimple);
            (Eq, 7, "eq", 2, 1, AluSimple); (Ne, 8, "ne", 2, 1, AluSimple);
            (Lt, 9, "lt", 2, 1, AluSimple); (Le, 10, "le", 2, 1, AluSimple);
            (Gt, 11, "gt", 2, 1, AluSimple); (Ge, 12, "ge", 2, 1, AluSimple);
            (Select, 13, "select", 3, 1, AluSimple);
            (And, 14, "and", 2, 1, AluSimple); (Or, 15, "or", 2, 1, AluSimple); (Xor, 16, "xor", 2, 1, AluSimple);
            (Shl, 17, "shl", 2, 1, AluSimple); (Shr, 18, "shr", 2, 1, AluSimple); (Shra, 19, "shra", 2, 1, AluSimple);
            (Abs, 20, "abs", 1, 1, AluSimple); (Neg, 21, "neg", 1, 1, AluSimple);
            (Floor, 22, "floor", 1, 1, AluSimple); (Ceil, 23, "ceil", 1, 1, AluSimple);
            (Round, 24, "round", 1, 1, AluSimple); (Trunc, 25, "trunc", 1, 1, AluSimple);
            (Sqrt, 26, "sqrt", 1, 1, AluDiv); (Rsqrt, 27, "rsqrt", 1, 1, AluDiv);
            (Exp, 28, "exp", 1, 1, AluExp); (Log, 29, "log", 1, 4, AluExp); (Tanh, 30, "tanh", 1, 1, AluExp);
            (Erf, 31, "erf", 1, 4, AluExp); (Sin, 32, "sin", 1, 4, AluExp); (Cos, 33, "cos", 1, 4, AluExp);
            (Cvt, 34, "cvt", 1, 1, AluSimple); (Iota, 35, "iota", 0, 1, AluSimple);
            (Copy, 36, "copy", 1, 1, AluSimple);
        }
    };
}

macro_rules! define_alu_ops {
    ($(($variant:ident, $code:literal, $name:literal, $arity:literal, $cost:literal, $lat:ident);)*) => {
        /// An operation of the VXM (and, for the four associative ones, of `fold` and `reduce`).
        ///
        /// `select(c, a, b)` is `c != 0 ? a : b`; `fma(a, b, c)` is `a * b + c` with one rounding; `iota` is the lane
        /// number plus the immediate, as i32; `cvt` converts from the operand's dtype to the run's dtype; `shr` is
        /// logical and `shra` arithmetic; `copy` forwards its operand.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum AluOp {
            $(#[doc = $name] $variant = $code,)*
        }

        impl AluOp {
            /// All operations in encoding order.
            pub const ALL: &'static [AluOp] = &[$(AluOp::$variant,)*];

            /// Name as printed (`add`).
            pub const fn name(self) -> &'static str {
                match self { $(AluOp::$variant => $name,)* }
            }

            /// Number of operands.
            pub const fn arity(self) -> usize {
                match self { $(AluOp::$variant => $arity,)* }
            }

            /// ALUs that the operation occupies: 1, or 4 (ALUs 4i .. 4i+3, issued on queue 4i).
            pub const fn cost(self) -> u8 {
                match self { $(AluOp::$variant => $cost,)* }
            }

            /// Which latency of the target applies.
            pub const fn latency_key(self) -> crate::timing::LatencyKey {
                match self { $(AluOp::$variant => crate::timing::LatencyKey::$lat,)* }
            }

            /// Decodes an operation byte.
            pub fn from_u8(v: u8) -> Option<AluOp> {
                match v { $($code => Some(AluOp::$variant),)* _ => None }
            }
        }
    };
}
for_each_alu_op!(define_alu_ops);
