//! The ops whose meaning is a module: type inference and reference evaluation, one module an op.

// An op's functions take one argument per attribute of the table, by reference as the table hands them over.
#![allow(clippy::too_many_arguments)]

pub mod arg;
pub mod arg_max;
pub mod arg_min;
pub mod attention;
pub mod avg_pool;
pub mod bit_cast;
pub mod branch;
pub mod broadcast;
pub mod check;
pub mod concat;
pub mod conv;
pub mod conv_transpose;
pub mod cumprod;
pub mod cumsum;
pub mod dims;
pub mod elementwise;
pub mod extents;
pub mod gather;
pub mod gather_elements;
pub mod gather_nd;
pub mod gru;
pub mod iota;
pub mod kernel;
pub mod lrn;
pub mod lstm;
pub mod matmul;
pub mod matmul_blocks;
pub mod max_pool;
pub mod non_max_suppression;
pub mod non_zero;
pub mod number;
pub mod pad;
pub mod recurrent;
pub mod reduce;
pub mod repeat;
pub mod reshape;
pub mod resize;
pub mod rnn;
pub mod rotary;
pub mod samples;
pub mod scatter_elements;
pub mod scatter_nd;
pub mod slice;
pub mod strided;
pub mod text;
pub mod text_split;
pub mod top_k;
pub mod transpose;
pub mod unique;
pub mod view;
pub mod window;
