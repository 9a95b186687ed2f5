//! One small graph or more per op of the table, for tests that quantify over all ops: inference against evaluation here,
//! compiled code against evaluation elsewhere.
//!
//! Extents are symbolic where the op allows it; [`bindings`] gives them numbers, [`crate::random::random`] gives the
//! operands values that the ops accept (indices lie in `-4..4`, so indexed axes have at least 4 elements).

use crate::attr::Attr;
use crate::dim::{Bindings, Dim};
use crate::expr::Cursor;
use crate::graph::Graph;
use crate::op::{Kind, OPS, Op, OpDef};
use crate::ty::{DType, TensorType};

/// The op and its operands' types. Elementwise and composite ops without a line are sampled by rule, see [`by_rule`].
const SAMPLES: &[&str] = &[
    "pow(i32[N, 3], i32[3])",
    "pow(f16[N, 3], f16[])",
    "div(i64[N], i64[N])",
    "modulo(i32[N, M], i32[M])",
    "cast[to = i8](f32[N, 3])",
    "cast[to = bool](f32[N])",
    "cast[to = bf16](i32[N])",
    "eq(bool[N], bool[])",
    "lt(u8[N, 1], u8[M])",
    "select(bool[N, 1], f32[M], f32[])",
    "selu[alpha = 1.5, gamma = 1.25](f32[N])",
    "softmax[axes = [1]](f32[N, M])",
    "softmax[axes = [1, 2]](f16[N, M, 3])",
    "log_softmax[axes = [1]](f32[N, M])",
    "layer_norm[axes = [2], epsilon = 1e-5](f32[N, M, 3], f32[3], f32[3])",
    "rms_norm[axes = [1], epsilon = 1e-5](f32[N, M], f32[M])",
    "batch_norm[epsilon = 1e-5](f32[N, 3, M], f32[3, 1], f32[3, 1], f32[3, 1], f32[3, 1])",
    "transpose[perm = [2, 0, 1]](f32[N, M, 3])",
    "transpose[perm = []](i8[])",
    "reshape[shape = [N*M, 3]](f32[N, M, 3])",
    "reshape[shape = [3, 1, N, 2]](u8[N, 6])",
    "broadcast[shape = [2, N, M]](f32[N, 1])",
    "slice[start = [1, M - 1], shape = [N - 1, M], step = [1, -1]](f32[N, M])",
    "slice[start = [0], shape = [div(N + 1, 2)], step = [2]](i64[N])",
    "concat[axis = 1](f32[N, 3], f32[N, M], f32[N, 1])",
    "concat[axis = 0](bool[2])",
    "pad[low = [1, 0], high = [0, M]](f32[N, 3], f32[])",
    "pad[low = [2], high = [3], mode = reflect](f32[4], f32[])",
    "pad[low = [2], high = [3], mode = edge](i32[N], i32[])",
    "pad[low = [2], high = [4], mode = wrap](f16[4], f16[])",
    "gather[axis = 1](f32[N, 6, 3], i64[2, M])",
    "gather[axis = 0](f32[4], i32[])",
    "gather_elements[axis = 0](f32[4, 3], i64[N, 3])",
    "gather_nd(f32[4, 5, 3], i64[N, 2])",
    "gather_nd[batch = 1](f32[N, 5, 3], i64[N, 1])",
    "scatter_elements[axis = 0](f32[5, 3], i64[2, 3], f32[2, 3])",
    "scatter_elements[axis = 1, mode = max](f32[N, 5], i64[N, 2], f32[N, 2])",
    "scatter_nd(f32[4, M], i64[N, 1], f32[N, M])",
    "scatter_nd[mode = add](i32[4, 5], i64[2, 2], i32[2])",
    "scatter_nd[mode = mul](f32[5], i64[2, 1], f32[2])",
    "iota[shape = [N, 3], axis = 0, dtype = i64]()",
    "iota[shape = [2, M], axis = 1, dtype = f16]()",
    "dims[values = [N, 2*N + 1, 7]]()",
    "resize[shape = [N, 3, 8, 6], scales = [1.0, 1.0, 2.0, 1.5], mode = linear, coordinates = half_pixel](f32[N, 3, 4, 4])",
    "resize[shape = [N, 2, 7], scales = [1.0, 1.0, 1.75], mode = nearest, coordinates = asymmetric, rounding = floor](u8[N, 2, 4])",
    "resize[shape = [1, 9], scales = [1.0, 1.8], mode = cubic, coordinates = align_corners](f32[1, 5])",
    "reduce_sum[axes = [1]](f32[N, M])",
    "reduce_sum[axes = []](f32[N])",
    "reduce_mean[axes = [0, 2]](f32[N, 3, M])",
    "reduce_mean[axes = [0]](i32[N, 3])",
    "reduce_max[axes = [0, 1]](f32[N, M])",
    "reduce_max[axes = [0]](f32[0, M])",
    "reduce_min[axes = [1]](i8[N, M])",
    "reduce_prod[axes = [0]](f16[N, M])",
    "arg_max[axis = 1](f32[N, M])",
    "arg_max[axis = 0, last = true](i32[5, M])",
    "arg_min[axis = 1](f32[N, M])",
    "cumsum[axis = 1](f32[N, M])",
    "cumsum[axis = 0, exclusive = true, reverse = true](i32[N, 2])",
    "cumprod[axis = 1](f32[N, M])",
    "cumprod[axis = 0, exclusive = true, reverse = true](i32[N, 2])",
    "bit_cast[to = i32](f32[N, M])",
    "bit_cast[to = f16](u16[N])",
    "bit_cast[to = u8](bool[N, 3])",
    "cast[to = f8e4m3](f32[N, M])",
    "cast[to = i4](f32[N, 3])",
    "cast[to = f32](f8e5m2fnuz[N])",
    "cast[to = u8](u2[N])",
    "top_k[axis = 1, k = 2](f32[N, M])",
    "top_k[axis = 0, k = N, largest = false](i64[N, 2])",
    "lrn[size = 3, alpha = 0.5, beta = 0.75, bias = 1.0, axis = 1](f32[N, 4, 3])",
    "matmul(f32[N, M], f32[M, 3])",
    "matmul(f32[2, 1, N, 3], f32[4, 3, M])",
    "matmul(f32[M], f32[N, M, 2])",
    "matmul(f32[N, M], f32[M])",
    "matmul(f32[M], f32[M])",
    "matmul(i32[N, 3], i32[3, 2])",
    "matmul_blocks[block = 4](f32[N, M, 6], i4[6, 5], i8[2, 5], f32[2, 5])",
    "matmul_blocks[block = 3](f32[7], u8[7, N], i8[1, 1], f32[3, N])",
    "conv[stride = [1, 1], pad = [1, 1, 1, 1], dilation = [1, 1]](f32[N, 3, 5, M], f32[4, 3, 3, 3])",
    "conv[stride = [2, 1], pad = [0, 1, 1, 0], dilation = [1, 2], group = 2](f32[N, 4, 6, 7], f32[6, 2, 2, 3])",
    "conv[stride = [2, 2], pad = [0, 0, 0, 0], dilation = [1, 1], group = 3, layout = last](f32[N, 6, 5, 3], f32[3, 2, 1, 6])",
    "conv[stride = [1, 1], pad = [0, 1, 1, 0], dilation = [1, 1], layout = last, algorithm = winograd](f32[N, 6, 9, 2], f32[3, 3, 2, 3])",
    "conv[stride = [1], pad = [0, 0], dilation = [1]](f32[N, 3, M], f32[2, 3, 1])",
    "conv[stride = [1], pad = [2, 0], dilation = [2]](i32[1, 2, 7], i32[2, 2, 2])",
    "conv_transpose[stride = [2, 2], pad = [1, 1, 1, 1], dilation = [1, 1], output_pad = [1, 0]](f32[N, 3, 4, M], f32[3, 2, 3, 3])",
    "conv_transpose[stride = [3], pad = [0, 0], dilation = [2], output_pad = [0], group = 2, layout = last](f32[N, 5, 4], f32[2, 4, 3])",
    "max_pool[kernel = [2, 2], stride = [2, 2], pad = [0, 0, 1, 1], dilation = [1, 1]](f32[N, 3, 5, M])",
    "max_pool[kernel = [3], stride = [2], pad = [1, 1], dilation = [1], ceil = true, layout = last](f32[N, 6, 2])",
    "avg_pool[kernel = [3, 3], stride = [2, 2], pad = [1, 1, 1, 1], dilation = [1, 1], ceil = true](f32[N, 2, 6, 7])",
    "avg_pool[kernel = [2], stride = [1], pad = [1, 0], dilation = [1], count_pad = true](f32[N, 2, M])",
    "attention[scale = 0.5](f32[N, 2, M, 4], f32[N, 2, 6, 4], f32[N, 2, 6, 3])",
    "attention[scale = 0.5, causal = true](f16[2, N, 4], f16[2, N, 4], f16[2, N, 4])",
    "attention[scale = 0.25](f32[2, N, 4], f32[2, M, 4], f32[2, M, 4], f32[N, M])",
    "attention[scale = 1.0](f32[N, 4], f32[M, 4], f32[M, 4], bool[1, M])",
    "rotary(f32[N, 2, M, 6], f32[M, 3], f32[M, 3])",
    "rotary[interleaved = true](f32[N, M, 4], f32[M, 2], f32[M, 2])",
    "lstm(f32[N, M, 3], f32[8, 3], f32[8, 2], f32[16], f32[M, 2], f32[M, 2])",
    "lstm[direction = reverse](f32[N, M, 3], f32[8, 3], f32[8, 2], f32[16], f32[M, 2], f32[M, 2])",
    "gru(f32[N, M, 3], f32[6, 3], f32[6, 2], f32[12], f32[M, 2])",
    "gru[direction = reverse, linear_before_reset = true](f32[N, M, 3], f32[6, 3], f32[6, 2], f32[12], f32[M, 2])",
    "rnn[activation = relu](f32[N, M, 3], f32[2, 3], f32[2, 2], f32[4], f32[M, 2])",
];

/// Ops without a sample: those that have no meaning without a region, and those whose types data decides.
const WITHOUT: &[&str] =
    &["non_zero", "unique", "non_max_suppression", "extents", "text", "text_split", "repeat", "branch", "stage", "kernel"];

/// Numbers for the symbols of the samples. They differ from each other and from the extents beside them.
pub fn bindings() -> Bindings {
    Bindings::from([("N".into(), 5), ("M".into(), 7)])
}

/// Every sample: a graph of one node that returns all of the node's results.
///
/// # Panics
/// When an op has no sample; a test holds that none does.
pub fn samples() -> Vec<Graph> {
    let written = SAMPLES.iter().map(|text| sample(text).unwrap_or_else(|e| panic!("{text}: {e}")));
    let without_line = |d: &&OpDef| !WITHOUT.contains(&d.name) && !SAMPLES.iter().any(|s| Cursor::new(s).name().as_deref() == Ok(d.name));
    let ruled = OPS.iter().filter(without_line).map(|d| by_rule(d).unwrap_or_else(|| panic!("`{}` needs a sample", d.name)));
    written.chain(ruled).collect()
}

/// Operands that broadcast, of the first type among f32, i32 and bool that the op takes; its attributes are 0.5.
fn by_rule(def: &'static OpDef) -> Option<Graph> {
    if !matches!(def.kind, Kind::Elementwise | Kind::Composite) {
        return None;
    }
    let op = def.build(&vec![Attr::Real(crate::attr::Real(0.5)); def.attrs.len()]).ok()?;
    let (n, m) = (Dim::symbol("N"), Dim::symbol("M"));
    let shapes = [vec![n, m.clone()], vec![m], vec![]];
    [DType::F32, DType::I32, DType::Bool].into_iter().find_map(|dtype| {
        let types = shapes.iter().take(def.operands.len()).map(|dims| TensorType::new(dtype, dims.iter().cloned()));
        graph(op.clone(), types.collect()).ok()
    })
}

/// `op[attributes](type, type, ..)` as a graph.
fn sample(text: &str) -> Result<Graph, String> {
    let mut cursor = Cursor::new(text);
    let name = cursor.name()?;
    let attr = |c: &mut Cursor| Ok((c.name()?, c.expect("=").and_then(|()| c.attr())?));
    let attrs = if cursor.eat("[") { cursor.list("]", attr)? } else { vec![] };
    cursor.expect("(")?;
    let types = cursor.list(")", tensor_type)?;
    graph(Op::parse(&name, &attrs)?, types)
}

fn tensor_type(cursor: &mut Cursor) -> Result<TensorType, String> {
    let name = cursor.name()?;
    let dtype = DType::named(&name).ok_or_else(|| format!("there is no element type `{name}`"))?;
    cursor.expect("[")?;
    Ok(TensorType { dtype, dims: cursor.list("]", Cursor::dim)? })
}

fn graph(op: Op, types: Vec<TensorType>) -> Result<Graph, String> {
    let mut graph = Graph::new(op.name());
    let operands: Vec<_> = types.into_iter().enumerate().map(|(i, ty)| graph.add_param(&format!("x{i}"), ty)).collect();
    for result in graph.add_node(op, &operands, &["y"], vec![])? {
        let name = graph.value(result).name.clone();
        graph.add_result(result, &name);
    }
    Ok(graph)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::eval;
    use crate::random::random;
    use crate::tensor::Tensor;

    /// The operands' values for the bound graph.
    fn inputs(graph: &Graph) -> Vec<Tensor> {
        graph.params().iter().zip(1..).map(|(&p, seed)| random(seed, graph.ty(p)).unwrap()).collect()
    }

    #[test]
    fn every_op_is_sampled() {
        let sampled: Vec<String> = samples().into_iter().map(|g| g.name).collect();
        let missing: Vec<&str> = OPS.iter().map(|d| d.name).filter(|n| !sampled.iter().any(|s| s == n)).collect();
        assert_eq!(missing, WITHOUT);
    }

    #[test]
    fn inference_agrees_with_evaluation() {
        for sample in samples() {
            let bound = sample.bind(&bindings()).unwrap_or_else(|e| panic!("{sample}\n{e}"));
            let results = eval(&bound, &inputs(&bound)).unwrap_or_else(|e| panic!("{sample}\n{e}"));
            let found: Vec<TensorType> = results.iter().map(|t| t.ty()).collect();
            let inferred: Vec<TensorType> = bound.results.iter().map(|&r| bound.ty(r).clone()).collect();
            assert_eq!(found, inferred, "{sample}");
        }
    }

    #[test]
    fn inference_commutes_with_binding() {
        for sample in samples() {
            let bound = sample.bind(&bindings()).unwrap();
            let later: Vec<TensorType> = sample.results.iter().map(|&r| sample.ty(r).bind(&bindings())).collect();
            let first: Vec<TensorType> = bound.results.iter().map(|&r| bound.ty(r).clone()).collect();
            assert_eq!(first, later, "{sample}");
        }
    }

    #[test]
    fn evaluation_does_not_need_bound_graphs() {
        for sample in samples() {
            let bound = sample.bind(&bindings()).unwrap();
            let inputs = inputs(&bound);
            // Symbols that no operand mentions cannot be told from the inputs.
            let told = |symbol| sample.params().iter().any(|&p| sample.ty(p).dims.iter().any(|d| d.mentions(symbol)));
            if told("N") && told("M") {
                let (found, expected) = (eval(&sample, &inputs).unwrap(), eval(&bound, &inputs).unwrap());
                assert!(found.iter().zip(&expected).all(|(a, b)| a.bytes() == b.bytes()), "{sample}");
            }
        }
    }

    /// What may stand in a hostile file in place of an attribute.
    fn hostile(attr: &Attr) -> Vec<Attr> {
        let numbers = [i64::MIN, i64::MIN + 1, -1, 0, 2, 1 << 31, 1 << 32, (1 << 62) + 1, i64::MAX].map(Dim::from);
        match attr {
            Attr::Dim(_) => numbers.map(Attr::Dim).to_vec(),
            Attr::Dims(list) => {
                let replaced = |i: usize| {
                    numbers.clone().into_iter().map(move |n| {
                        let mut list = list.clone();
                        list[i] = n;
                        Attr::Dims(list)
                    })
                };
                let other_lengths = [Attr::Dims(vec![]), Attr::Dims([list.clone(), vec![Dim::ONE]].concat())];
                let all = numbers.clone().into_iter().map(|n| Attr::Dims(vec![n; list.len()]));
                (0..list.len()).flat_map(replaced).chain(all).chain(other_lengths).collect()
            }
            Attr::Real(_) => [f64::NAN, f64::INFINITY, 0.0, -1.0].map(|v| Attr::Real(crate::attr::Real(v))).to_vec(),
            Attr::Reals(list) => {
                let all = [f64::NAN, f64::INFINITY, 0.0, -1.0, 1e-300, 1e300].map(|v| Attr::Reals(vec![crate::attr::Real(v); list.len()]));
                all.into_iter().chain([Attr::Reals(vec![])]).collect()
            }
            Attr::Word(_) => vec![],
        }
    }

    #[test]
    fn hostile_attributes_do_not_panic() {
        const SMALL: i64 = 1 << 16;
        let (mut refused, mut taken) = (0, 0);
        for sample in samples() {
            let bound = sample.bind(&bindings()).unwrap();
            let (op, inputs) = (&bound.nodes()[0].op, inputs(&bound));
            let symbolic: Vec<&TensorType> = sample.params().iter().map(|&p| sample.ty(p)).collect();
            for (i, attr) in op.attrs().iter().enumerate() {
                for changed in hostile(attr) {
                    let mut attrs = op.attrs();
                    attrs[i] = changed;
                    let Ok(op) = op.def().build(&attrs) else { continue };
                    let _ = op.infer(&symbolic);
                    match op.infer(&bound.params().iter().map(|&p| bound.ty(p)).collect::<Vec<_>>()) {
                        Err(e) => {
                            assert!(e.starts_with('`'), "{e}");
                            refused += 1;
                        }
                        Ok(types) if types.iter().all(|t| t.count().as_const().is_some_and(|n| n <= SMALL)) => {
                            let _ = op.eval(&inputs.iter().collect::<Vec<_>>());
                            taken += 1;
                        }
                        Ok(_) => {}
                    }
                }
            }
        }
        assert!(refused > 500 && taken > 100, "{refused} refused, {taken} taken");
    }

    #[test]
    fn hostile_operands_do_not_panic() {
        let extents = [0, 1, 2, 3];
        let mut taken = 0;
        for sample in samples() {
            let bound = sample.bind(&bindings()).unwrap();
            let op = &bound.nodes()[0].op;
            // Every axis of one operand in turn has another extent, and a whole axis is added or taken away.
            for (operand, &param) in bound.params().iter().enumerate() {
                let dims = &bound.ty(param).dims;
                let replaced =
                    (0..dims.len()).flat_map(|axis| extents.map(|e| [&dims[..axis], &[Dim::from(e)], &dims[axis + 1..]].concat()));
                let ranks = [dims[dims.len().min(1)..].to_vec(), [&[Dim::from(2)], dims.as_slice()].concat()];
                for changed in replaced.chain(ranks) {
                    let mut types: Vec<TensorType> = bound.params().iter().map(|&p| bound.ty(p).clone()).collect();
                    types[operand].dims = changed;
                    let inputs: Vec<Tensor> = types.iter().zip(1..).map(|(t, seed)| random(seed, t).unwrap()).collect();
                    if let (Ok(inferred), Ok(found)) =
                        (op.infer(&types.iter().collect::<Vec<_>>()), op.eval(&inputs.iter().collect::<Vec<_>>()))
                    {
                        assert_eq!(found.iter().map(Tensor::ty).collect::<Vec<_>>(), inferred, "{op:?} of {types:?}");
                        taken += 1;
                    }
                }
            }
        }
        assert!(taken > 300, "{taken}");
    }
}
