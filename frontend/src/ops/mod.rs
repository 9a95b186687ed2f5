//! The importers of operators that are more than one op with the same operands, by family.

pub(crate) mod attention;
pub(crate) mod conv;
pub(crate) mod elementwise;
pub(crate) mod found;
pub(crate) mod gather;
pub(crate) mod generate;
pub(crate) mod loss;
pub(crate) mod matmul;
pub(crate) mod microsoft;
pub(crate) mod ml;
pub(crate) mod ngram;
pub(crate) mod norm;
pub(crate) mod pool;
pub(crate) mod quantize;
pub(crate) mod random;
pub(crate) mod recurrent;
pub(crate) mod reduce;
pub(crate) mod resample;
pub(crate) mod resize;
pub(crate) mod sample;
pub(crate) mod shape;
pub(crate) mod signal;
pub(crate) mod slice;
pub(crate) mod state;
pub(crate) mod stretch;
pub(crate) mod training;
