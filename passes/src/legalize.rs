//! Rewrites what has no kernel of its own into ops that have: padding becomes explicit, and a few ops are spelled out.
//!
//! After this pass no convolution or pool pads or hangs over the end, and there is no `conv_transpose`, `lrn`, `rotary`,
//! nor a `pad` of a mode other than `constant`, and no `attention` but one in f32 heads of a known size, which
//! has a kernel. Everything is said in the IR's own ops, so the evaluator checks it.
//!
//! ```text
//! y = conv[stride=[1, 1], pad=[1, 1, 1, 1], ...](x, w)
//! =>
//! y.pad = pad[low=[0, 0, 1, 1], high=[0, 0, 1, 1]](x, 0)
//! y     = conv[stride=[1, 1], pad=[0, 0, 0, 0], ...](y.pad, w)
//! ```

use crate::layout;
use egret_ir::attr::{Algorithm, Layout, PadMode};
use egret_ir::{Copy, DType, Dim, Element, Graph, Node, Op, Tensor, TensorType, ValueId};

/// A sum over so many neighbours is written out; with more it is left to a pool, which is one op.
const MOST_NEIGHBOURS: usize = 16;

/// The pass; see the module.
///
/// # Errors
/// Names the node whose attributes have no meaning, such as a negative padding.
pub fn legalize(graph: &Graph) -> Result<Graph, String> {
    let mut copy = Copy::new(graph, TensorType::clone);
    for node in graph.nodes() {
        let name = graph.value(node.results[0]).name.clone();
        let mut build = Build { copy: &mut copy, node, name: &name };
        match build.legal().map_err(|e| format!("{name}: {e}"))? {
            Some(result) => copy.set(node.results[0], result),
            None => copy.node(node)?,
        }
    }
    Ok(copy.finish())
}

/// Builds the replacement of one node; every value made is named after the node's result and carries its origin.
struct Build<'a, 'g> {
    copy: &'a mut Copy<'g>,
    node: &'a Node,
    name: &'a str,
}

type Built = Result<ValueId, String>;

impl Build<'_, '_> {
    /// What stands for the node's only result, or `None` if the node is legal as it is.
    fn legal(&mut self) -> Result<Option<ValueId>, String> {
        let op = self.node.op.clone();
        Ok(Some(match &op {
            Op::conv { pad, layout, .. } if has_padding(pad) => self.conv(&op, pad, *layout)?,
            Op::max_pool { kernel, stride, pad, dilation, ceil, layout } if *ceil || has_padding(pad) => {
                let window = Window { kernel, stride, dilation, pad, layout: *layout };
                self.max_pool(&window)?
            }
            Op::avg_pool { kernel, stride, pad, dilation, ceil, count_pad, layout } if *ceil || has_padding(pad) => {
                let window = Window { kernel, stride, dilation, pad, layout: *layout };
                self.avg_pool(&window, *count_pad)?
            }
            Op::conv_transpose { stride, pad, dilation, output_pad, group, layout } => {
                self.conv_transpose(stride, pad, dilation, output_pad, *group, *layout)?
            }
            Op::lrn { size, alpha, beta, bias, axis } => self.lrn(*size, alpha.0, beta.0, bias.0, *axis)?,
            Op::attention { scale, causal } if !self.has_attention_kernel() => self.attention(scale.0, *causal)?,
            Op::rotary { interleaved } => self.rotary(*interleaved)?,
            Op::pad { low, high, mode } if *mode != PadMode::Constant => self.pad_by_copies(low, high, *mode)?,
            _ => return Ok(None),
        }))
    }

    fn operand(&mut self, i: usize) -> ValueId {
        self.copy.value(self.node.operands[i])
    }

    fn ty(&self, value: ValueId) -> TensorType {
        self.copy.new.ty(value).clone()
    }

    /// The last node of a replacement: takes the result's own name.
    fn last(&mut self, op: Op, operands: &[ValueId]) -> Built {
        Ok(self.copy.new.add_node(op, operands, &[self.name], self.node.origin.clone())?[0])
    }

    fn step(&mut self, suffix: &str, op: Op, operands: &[ValueId]) -> Built {
        let name = format!("{}.{suffix}", self.name);
        Ok(self.copy.new.add_node(op, operands, &[&name], self.node.origin.clone())?[0])
    }

    fn scalar(&mut self, suffix: &str, dtype: DType, value: f64) -> ValueId {
        let name = format!("{}.{suffix}", self.name);
        self.copy.new.add_const(&name, Tensor::scalar(dtype, Element::Float(value)))
    }

    /// `x` with constant borders; `x` itself if there are none.
    fn padded(&mut self, suffix: &str, x: ValueId, low: Vec<Dim>, high: Vec<Dim>, value: f64) -> Built {
        if low.iter().chain(&high).all(|d| d.is(0)) {
            return Ok(x);
        }
        let dtype = self.ty(x).dtype;
        let value = self.scalar(&format!("{suffix}.value"), dtype, value);
        self.step(suffix, Op::pad { low, high, mode: PadMode::Constant }, &[x, value])
    }

    fn conv(&mut self, op: &Op, pad: &[i64], layout: Layout) -> Built {
        let (x, w) = (self.operand(0), self.operand(1));
        let rank = self.ty(x).rank();
        let (low, high) = spatial_padding(pad, rank, layout);
        let x = self.padded("pad", x, low, high, 0.0)?;
        let mut unpadded = op.clone();
        if let Op::conv { pad, .. } = &mut unpadded {
            pad.fill(0);
        }
        self.last(unpadded, &[x, w])
    }

    fn max_pool(&mut self, window: &Window) -> Built {
        let x = self.operand(0);
        let ty = self.ty(x);
        let lowest = if ty.dtype.is_float() { f64::NEG_INFINITY } else { lowest_int(ty.dtype) };
        let (low, high, hang) = window.borders(&ty, &self.result_type());
        let x = self.padded("pad", x, low, added(&high, &hang), lowest)?;
        self.last(window.max_pool(), &[x])
    }

    /// The mean over the elements that count: `mean(x with borders 0) / mean(1 where it counts, borders 0 elsewhere)`.
    fn avg_pool(&mut self, window: &Window, count_pad: bool) -> Built {
        let x = self.operand(0);
        let ty = self.ty(x);
        let (low, high, hang) = window.borders(&ty, &self.result_type());
        let sum = self.padded("pad", x, low.clone(), added(&high, &hang), 0.0)?;
        if count_pad && hang.iter().all(|d| d.is(0)) {
            return self.last(window.avg_pool(), &[sum]);
        }
        let sum = self.step("sum", window.avg_pool(), &[sum])?;
        let ones = self.ones(&ty, window.layout)?;
        let border = if count_pad { 1.0 } else { 0.0 };
        let counted = self.padded("counted", ones, low, high, border)?;
        let none = vec![Dim::ZERO; ty.rank()];
        let counted = self.padded("hang", counted, none, hang, 0.0)?;
        let share = self.step("share", window.avg_pool(), &[counted])?;
        self.last(Op::div, &[sum, share])
    }

    /// Ones of the spatial extents of `ty`, extent 1 elsewhere.
    fn ones(&mut self, ty: &TensorType, layout: Layout) -> Built {
        let spatial = spatial_axes(ty.rank(), layout);
        let shape = (0..ty.rank()).map(|a| if spatial.contains(&a) { ty.dims[a].clone() } else { Dim::ONE }).collect();
        let one = self.scalar("one", ty.dtype, 1.0);
        self.step("ones", Op::broadcast { shape }, &[one])
    }

    fn result_type(&self) -> TensorType {
        self.copy.old.ty(self.node.results[0]).clone()
    }

    /// `x / (bias + alpha * mean over the window of x^2)^beta`.
    fn lrn(&mut self, size: usize, alpha: f64, beta: f64, bias: f64, axis: usize) -> Built {
        let x = self.operand(0);
        let ty = self.ty(x);
        let square = self.step("square", Op::mul, &[x, x])?;
        let (sum, share) = match size {
            ..=MOST_NEIGHBOURS => (self.sum_of_neighbours(square, size, axis)?, alpha / size as f64),
            _ => (self.mean_of_neighbours(square, size, axis)?, alpha),
        };
        let share = self.scalar("alpha", ty.dtype, share);
        let scaled = self.step("scaled", Op::mul, &[sum, share])?;
        let bias = self.scalar("bias", ty.dtype, bias);
        let base = self.step("base", Op::add, &[scaled, bias])?;
        let norm = self.power(base, beta)?;
        self.last(Op::div, &[x, norm])
    }

    /// The sum over a window along `axis` by shifted copies, none of which is stored: the innermost axis stays what it is.
    fn sum_of_neighbours(&mut self, x: ValueId, size: usize, axis: usize) -> Built {
        let ty = self.ty(x);
        let along = |n: usize| (0..ty.rank()).map(|a| if a == axis { Dim::from(n) } else { Dim::ZERO }).collect::<Vec<_>>();
        let padded = self.padded("pad", x, along((size - 1) / 2), along(size / 2), 0.0)?;
        let shifted = |by: usize| Op::slice { start: along(by), shape: ty.dims.clone(), step: vec![1; ty.rank()] };
        let mut sum = self.step("neighbour", shifted(0), &[padded])?;
        for by in 1..size {
            let neighbour = self.step("neighbour", shifted(by), &[padded])?;
            sum = self.step("sum", Op::add, &[sum, neighbour])?;
        }
        Ok(sum)
    }

    /// The mean over a window along `axis` by a pool, for which that is made a spatial axis.
    fn mean_of_neighbours(&mut self, x: ValueId, size: usize, axis: usize) -> Built {
        let ty = self.ty(x);
        let outer: Dim = ty.dims[..axis].iter().cloned().product();
        let inner: Dim = ty.dims[axis + 1..].iter().cloned().product();
        let flat = self.step("flat", Op::reshape { shape: vec![outer, Dim::ONE, ty.dims[axis].clone(), inner] }, &[x])?;
        let border = |n: usize| vec![Dim::ZERO, Dim::ZERO, Dim::from(n), Dim::ZERO];
        let padded = self.padded("pad", flat, border((size - 1) / 2), border(size / 2), 0.0)?;
        let mean = Op::avg_pool {
            kernel: vec![size, 1],
            stride: vec![1, 1],
            pad: vec![0; 4],
            dilation: vec![1, 1],
            ceil: false,
            count_pad: true,
            layout: Layout::First,
        };
        let mean = self.step("mean", mean, &[padded])?;
        self.step("shaped", Op::reshape { shape: ty.dims }, &[mean])
    }

    /// `x^exponent`; by roots for the exponent that nearly every model has, since they take a fraction of the time.
    fn power(&mut self, x: ValueId, exponent: f64) -> Built {
        if exponent == 0.75 {
            let half = self.step("half", Op::sqrt, &[x])?;
            let quarter = self.step("quarter", Op::sqrt, &[half])?;
            return self.step("norm", Op::mul, &[half, quarter]);
        }
        let exponent = self.scalar("beta", self.ty(x).dtype, exponent);
        self.step("norm", Op::pow, &[x, exponent])
    }

    /// By phases where that is possible, else a convolution of the input with `stride - 1` zeros between its elements with the kernel
    /// turned around.
    fn conv_transpose(
        &mut self,
        stride: &[usize],
        pad: &[i64],
        dilation: &[usize],
        output_pad: &[usize],
        group: usize,
        layout: Layout,
    ) -> Built {
        if stride.iter().any(|&s| s > 1) && dilation.iter().all(|&d| d == 1) {
            return self.conv_transpose_by_phases(stride, pad, group, layout);
        }
        let (x, w) = (self.operand(0), self.operand(1));
        let (rank, spatial) = (self.ty(x).rank(), spatial_axes(self.ty(x).rank(), layout));
        let wide = self.zero_stuffed(x, stride, &spatial)?;
        let kernel = self.ty(w);
        let turned = self.turned_kernel(w, group, layout)?;
        let n = stride.len();
        let (mut low, mut high) = (vec![Dim::ZERO; rank], vec![Dim::ZERO; rank]);
        for i in 0..n {
            let kernel_axis = if layout == Layout::First { 2 + i } else { i };
            let reach = (kernel.dims[kernel_axis].clone() - 1) * dilation[i] as i64;
            low[spatial[i]] = reach.clone() - pad[i];
            // The last stuffed group ends in `stride - 1` zeros that already pad.
            high[spatial[i]] = reach - pad[n + i] + output_pad[i] - (stride[i] as i64 - 1);
        }
        let x = self.cropped_and_padded(wide, low, high)?;
        let (stride, pad, dilation, algorithm) = (vec![1; n], vec![0; 2 * n], dilation.to_vec(), Algorithm::Direct);
        self.last(Op::conv { stride, pad, dilation, group, layout, algorithm }, &[x, turned])
    }

    /// Outputs whose positions are equal modulo the stride `s` are one convolution each, and all of them together are one with `s` times
    /// as many output channels per axis, over channels-last data:
    ///
    /// ```text
    /// y[s*m + r] = sum over t: x[m - t] * w[s*t + r]      t in T = ceil(kernel / s), r in s
    /// ```
    fn conv_transpose_by_phases(&mut self, stride: &[usize], pad: &[i64], group: usize, layout: Layout) -> Built {
        let (mut x, n) = (self.operand(0), stride.len());
        if layout == Layout::First {
            x = self.step("last", Op::transpose { perm: layout::to_last(n + 2) }, &[x])?;
        }
        let (weights, taps, outputs) = self.weights_by_phase(stride, group, layout)?;
        let border: Vec<Dim> = [Dim::ZERO].into_iter().chain(taps.iter().map(|t| t.clone() - 1)).chain([Dim::ZERO]).collect();
        let x = self.padded("pad", x, border.clone(), border, 0.0)?;
        let (stride_one, no_pad, dilation) = (vec![1; n], vec![0; 2 * n], vec![1; n]);
        let (last, algorithm) = (Layout::Last, Algorithm::Direct);
        let conv = Op::conv { stride: stride_one, pad: no_pad, dilation, group, layout: last, algorithm };
        let phases = self.step("phases", conv, &[x, weights])?;
        let whole = self.woven(phases, stride, group, &outputs)?;
        let result = self.result_type();
        let spatial = spatial_axes(n + 2, layout);
        let (mut start, mut shape) = (vec![Dim::ZERO; n + 2], self.ty(whole).dims);
        for i in 0..n {
            (start[i + 1], shape[i + 1]) = (Dim::from(pad[i]), result.dims[spatial[i]].clone());
        }
        let y = self.cut_out(whole, start, shape)?;
        match layout {
            Layout::First => self.last(Op::transpose { perm: layout::to_first(n + 2) }, &[y]),
            Layout::Last => Ok(y),
        }
    }

    /// Weights `[in, out/group, kernel..]` as `[T.., in/group, group * stride.. * out/group]`, the taps `T` of each phase turned around;
    /// with `T` and `out/group`.
    fn weights_by_phase(&mut self, stride: &[usize], group: usize, layout: Layout) -> Result<(ValueId, Vec<Dim>, Dim), String> {
        let (mut w, n) = (self.operand(1), stride.len());
        if layout == Layout::Last {
            w = self.step("weights", Op::transpose { perm: [n, n + 1].into_iter().chain(0..n).collect() }, &[w])?;
        }
        let dims = self.ty(w).dims;
        let (groups, outputs) = (Dim::from(group), dims[1].clone());
        let inputs = dims[0].exact_div(&groups).ok_or_else(|| format!("{} input channels do not divide into {group} groups", dims[0]))?;
        let taps: Vec<Dim> = (0..n).map(|i| dims[2 + i].ceil_div(&stride[i].into())).collect();
        let missing = |i: usize| taps[i].clone() * stride[i] - dims[2 + i].clone();
        let high = [Dim::ZERO, Dim::ZERO].into_iter().chain((0..n).map(missing)).collect();
        let w = self.padded("taps", w, vec![Dim::ZERO; n + 2], high, 0.0)?;
        // [group, in, out, T, s, T, s ..]
        let mut split = vec![groups.clone(), inputs.clone(), outputs.clone()];
        split.extend((0..n).flat_map(|i| [taps[i].clone(), stride[i].into()]));
        let w = self.step("split", Op::reshape { shape: split.clone() }, &[w])?;
        let is_tap = |axis: usize| axis >= 3 && axis % 2 == 1;
        let start = (0..split.len()).map(|a| if is_tap(a) { split[a].clone() - 1 } else { Dim::ZERO }).collect();
        let step = (0..split.len()).map(|a| if is_tap(a) { -1 } else { 1 }).collect();
        let w = self.step("turned", Op::slice { start, shape: split, step }, &[w])?;
        let [tap_axes, phase_axes] = [3, 4].map(|first| (0..n).map(move |i| first + 2 * i));
        let perm = tap_axes.chain([1, 0]).chain(phase_axes).chain([2]).collect();
        let w = self.step("by_tap", Op::transpose { perm }, &[w])?;
        let all = groups * outputs.clone() * stride.iter().product::<usize>();
        let shape = taps.iter().cloned().chain([inputs, all]).collect();
        Ok((self.step("by_phase", Op::reshape { shape }, &[w])?, taps, outputs))
    }

    /// `[b, m.., group * s.. * out]` as `[b, m*s.., group * out]`.
    fn woven(&mut self, x: ValueId, stride: &[usize], group: usize, outputs: &Dim) -> Built {
        let (dims, n) = (self.ty(x).dims, stride.len());
        let (groups, phases) = (Dim::from(group), stride.iter().map(|&s| Dim::from(s)));
        let split = dims[..=n].iter().cloned().chain([groups.clone()]).chain(phases).chain([outputs.clone()]).collect();
        let x = self.step("apart", Op::reshape { shape: split }, &[x])?;
        let perm = [0].into_iter().chain((0..n).flat_map(|i| [1 + i, n + 2 + i])).chain([n + 1, 2 * n + 2]).collect();
        let x = self.step("woven", Op::transpose { perm }, &[x])?;
        let spatial = (0..n).map(|i| dims[1 + i].clone() * stride[i]);
        let shape = dims[..1].iter().cloned().chain(spatial).chain([groups * outputs.clone()]).collect();
        self.step("whole", Op::reshape { shape }, &[x])
    }

    /// The elements from `start` on; what is asked for in front of the first or behind the last is zero.
    fn cut_out(&mut self, x: ValueId, start: Vec<Dim>, shape: Vec<Dim>) -> Built {
        let there = self.ty(x).dims;
        let low = start.iter().map(|d| -d.clone()).collect();
        let high = (0..there.len()).map(|a| start[a].clone() + shape[a].clone() - there[a].clone()).collect();
        self.cropped_and_padded(x, low, high)
    }

    /// Each element followed by `stride - 1` zeros along the spatial axes: `[.., h, ..] -> [.., h*s, ..]`.
    fn zero_stuffed(&mut self, x: ValueId, stride: &[usize], spatial: &[usize]) -> Built {
        if stride.iter().all(|&s| s == 1) {
            return Ok(x);
        }
        let ty = self.ty(x);
        let (mut split, mut high, mut merged) = (vec![], vec![], vec![]);
        for (axis, dim) in ty.dims.iter().enumerate() {
            split.push(dim.clone());
            high.push(Dim::ZERO);
            let step = spatial.iter().position(|&s| s == axis).map_or(1, |i| stride[i]);
            if spatial.contains(&axis) {
                split.push(Dim::ONE);
                high.push(Dim::from(step - 1));
            }
            merged.push(dim.clone() * step);
        }
        let low = vec![Dim::ZERO; split.len()];
        let split = self.step("split", Op::reshape { shape: split }, &[x])?;
        let stuffed = self.padded("stuffed", split, low, high, 0.0)?;
        self.step("wide", Op::reshape { shape: merged }, &[stuffed])
    }

    /// The weights of the forward convolution that computes the transposed one: spatial axes reversed, in and out swapped.
    fn turned_kernel(&mut self, w: ValueId, group: usize, layout: Layout) -> Built {
        let ty = self.ty(w);
        let (rank, n) = (ty.rank(), ty.rank() - 2);
        let spatial = if layout == Layout::First { 2..rank } else { 0..n };
        let start = (0..rank).map(|a| if spatial.contains(&a) { ty.dims[a].clone() - 1 } else { Dim::ZERO }).collect();
        let step = (0..rank).map(|a| if spatial.contains(&a) { -1 } else { 1 }).collect();
        let flipped = self.step("flipped", Op::slice { start, shape: ty.dims.clone(), step }, &[w])?;
        let (input, output) = if layout == Layout::First { (0, 1) } else { (n, n + 1) };
        let (inputs, outputs) = (ty.dims[input].clone(), ty.dims[output].clone());
        let groups = Dim::from(group);
        let inputs = inputs.exact_div(&groups).ok_or_else(|| format!("{inputs} input channels do not divide into {group} groups"))?;
        let kernel: Vec<Dim> = spatial.clone().map(|a| ty.dims[a].clone()).collect();
        let front = |mut v: Vec<Dim>| {
            if layout == Layout::First {
                v.extend(kernel.clone())
            } else {
                v = [kernel.clone(), v].concat()
            }
            v
        };
        // [group, in, out] -> [group, out, in], the last two groups' outputs joined: what a grouped conv expects.
        let by_group =
            self.step("by_group", Op::reshape { shape: front(vec![groups.clone(), inputs.clone(), outputs.clone()]) }, &[flipped])?;
        let at = if layout == Layout::First { 0 } else { n };
        let mut perm: Vec<usize> = (0..rank + 1).collect();
        match layout {
            Layout::First => perm.swap(at + 1, at + 2),
            // [kernel.., group, in, out] -> [kernel.., in, group, out]
            Layout::Last => perm.swap(at, at + 1),
        }
        let swapped = self.step("swapped", Op::transpose { perm }, &[by_group])?;
        let joined = match layout {
            Layout::First => front(vec![groups * outputs, inputs]),
            Layout::Last => front(vec![inputs, groups * outputs]),
        };
        self.step("turned", Op::reshape { shape: joined }, &[swapped])
    }

    /// Pads where the border is positive and crops where it is negative.
    fn cropped_and_padded(&mut self, x: ValueId, low: Vec<Dim>, high: Vec<Dim>) -> Built {
        let ty = self.ty(x);
        let crop = |d: &Dim| (-d.clone()).maximum(&Dim::ZERO);
        let grow = |d: &Dim| d.maximum(&Dim::ZERO);
        let (cut_low, cut_high): (Vec<Dim>, Vec<Dim>) = (low.iter().map(crop).collect(), high.iter().map(crop).collect());
        let mut x = x;
        if cut_low.iter().chain(&cut_high).any(|d| !d.is(0)) {
            let shape = (0..ty.rank()).map(|a| ty.dims[a].clone() - cut_low[a].clone() - cut_high[a].clone()).collect();
            x = self.step("cropped", Op::slice { start: cut_low, shape, step: vec![1; ty.rank()] }, &[x])?;
        }
        self.padded("pad", x, low.iter().map(grow).collect(), high.iter().map(grow).collect(), 0.0)
    }

    /// Whether the attention kernel does it: f32 heads of a known size.
    fn has_attention_kernel(&mut self) -> bool {
        let [q, v] = [0, 2].map(|i| self.operand(i)).map(|operand| self.ty(operand));
        let is_known = |ty: &TensorType| ty.dims.last().is_some_and(|d| d.as_const().is_some());
        q.dtype == DType::F32 && is_known(&q) && is_known(&v)
    }

    /// `softmax(scale * q k^T + mask) v`; a row that sees nothing gives zeros.
    fn attention(&mut self, scale: f64, causal: bool) -> Built {
        let (q, k, v) = (self.operand(0), self.operand(1), self.operand(2));
        let (q_ty, k_ty) = (self.ty(q), self.ty(k));
        let mut perm: Vec<usize> = (0..k_ty.rank()).collect();
        let rank = k_ty.rank();
        perm.swap(rank - 2, rank - 1);
        let kt = self.step("kt", Op::transpose { perm }, &[k])?;
        let scores = self.step("scores", Op::matmul, &[q, kt])?;
        let scale = self.scalar("scale", q_ty.dtype, scale);
        let mut scores = self.step("scaled", Op::mul, &[scores, scale])?;
        let hidden = self.scalar("hidden", q_ty.dtype, f64::NEG_INFINITY);
        if causal {
            let shape = vec![q_ty.dims[q_ty.rank() - 2].clone(), k_ty.dims[rank - 2].clone()];
            let row = self.step("row", Op::iota { shape: shape.clone(), axis: 0, dtype: DType::I64 }, &[])?;
            let column = self.step("column", Op::iota { shape, axis: 1, dtype: DType::I64 }, &[])?;
            let seen = self.step("seen", Op::le, &[column, row])?;
            scores = self.step("causal", Op::select, &[seen, scores, hidden])?;
        }
        if self.node.operands.len() > 3 {
            let mask = self.operand(3);
            scores = match self.ty(mask).dtype {
                DType::Bool => self.step("masked", Op::select, &[mask, scores, hidden])?,
                _ => self.step("masked", Op::add, &[scores, mask])?,
            };
        }
        let weights = if self.node.operands.len() > 3 { self.masked_softmax(scores, hidden)? } else { self.softmax("weights", scores)? };
        self.last(Op::matmul, &[weights, v])
    }

    fn softmax(&mut self, suffix: &str, scores: ValueId) -> Built {
        let axis = self.ty(scores).rank() - 1;
        self.step(suffix, Op::softmax { axes: vec![axis] }, &[scores])
    }

    /// Softmax in which a row without a finite score gives zeros, not NaN.
    fn masked_softmax(&mut self, scores: ValueId, hidden: ValueId) -> Built {
        let dtype = self.ty(scores).dtype;
        let lowest = self.scalar("lowest", dtype, lowest_finite(dtype));
        let zero = self.scalar("zero", dtype, 0.0);
        let finite = self.step("finite", Op::max, &[scores, lowest])?;
        let weights = self.softmax("softmax", finite)?;
        let unseen = self.step("unseen", Op::eq, &[scores, hidden])?;
        self.step("weights", Op::select, &[unseen, zero, weights])
    }

    /// `[a, b] -> [a cos - b sin, b cos + a sin]` for the pairs `(a, b)` of the innermost axis.
    fn rotary(&mut self, interleaved: bool) -> Built {
        let (x, cos, sin) = (self.operand(0), self.operand(1), self.operand(2));
        let ty = self.ty(x);
        let axis = ty.rank() - 1;
        let half = ty.dims[axis].exact_div(&2.into()).ok_or("the innermost extent is odd")?;
        let part = |start: Dim, step: i64| {
            let mut shape = ty.dims.clone();
            shape[axis] = half.clone();
            let (mut starts, mut steps) = (vec![Dim::ZERO; ty.rank()], vec![1; ty.rank()]);
            starts[axis] = start;
            steps[axis] = step;
            Op::slice { start: starts, shape, step: steps }
        };
        let (first, second) =
            if interleaved { (part(Dim::ZERO, 2), part(Dim::ONE, 2)) } else { (part(Dim::ZERO, 1), part(half.clone(), 1)) };
        let (a, b) = (self.step("a", first, &[x])?, self.step("b", second, &[x])?);
        let (a_cos, b_sin) = (self.step("a_cos", Op::mul, &[a, cos])?, self.step("b_sin", Op::mul, &[b, sin])?);
        let (b_cos, a_sin) = (self.step("b_cos", Op::mul, &[b, cos])?, self.step("a_sin", Op::mul, &[a, sin])?);
        let (real, imaginary) = (self.step("real", Op::sub, &[a_cos, b_sin])?, self.step("imaginary", Op::add, &[b_cos, a_sin])?);
        if !interleaved {
            return self.last(Op::concat { axis }, &[real, imaginary]);
        }
        let mut pair = self.ty(real).dims;
        pair.push(Dim::ONE);
        let real = self.step("real.1", Op::reshape { shape: pair.clone() }, &[real])?;
        let imaginary = self.step("imaginary.1", Op::reshape { shape: pair }, &[imaginary])?;
        let joined = self.step("joined", Op::concat { axis: axis + 1 }, &[real, imaginary])?;
        self.last(Op::reshape { shape: ty.dims }, &[joined])
    }

    /// Borders made of pieces of the tensor itself, one axis after another.
    fn pad_by_copies(&mut self, low: &[Dim], high: &[Dim], mode: PadMode) -> Built {
        let mut x = self.operand(0);
        for axis in 0..low.len() {
            let mut pieces = vec![];
            if !low[axis].is(0) {
                pieces.push(self.border(x, axis, &low[axis], mode, true)?);
            }
            pieces.push(x);
            if !high[axis].is(0) {
                pieces.push(self.border(x, axis, &high[axis], mode, false)?);
            }
            if pieces.len() > 1 {
                x = self.step("padded", Op::concat { axis }, &pieces)?;
            }
        }
        Ok(x)
    }

    /// `count` elements that continue `x` along `axis`, before it or behind it.
    fn border(&mut self, x: ValueId, axis: usize, count: &Dim, mode: PadMode, before: bool) -> Built {
        let ty = self.ty(x);
        let n = ty.dims[axis].clone();
        let (first, step, taken) = match (mode, before) {
            (PadMode::Reflect, true) => (count.clone(), -1, count.clone()),
            (PadMode::Reflect, false) => (n - 2, -1, count.clone()),
            (PadMode::Wrap, true) => (n - count.clone(), 1, count.clone()),
            (PadMode::Wrap, false) => (Dim::ZERO, 1, count.clone()),
            (PadMode::Edge | PadMode::Constant, true) => (Dim::ZERO, 1, Dim::ONE),
            (PadMode::Edge | PadMode::Constant, false) => (n - 1, 1, Dim::ONE),
        };
        let (mut start, mut shape, mut steps) = (vec![Dim::ZERO; ty.rank()], ty.dims.clone(), vec![1; ty.rank()]);
        (start[axis], shape[axis], steps[axis]) = (first, taken, step);
        let piece = self.step("border", Op::slice { start, shape: shape.clone(), step: steps }, &[x])?;
        if mode != PadMode::Edge {
            return Ok(piece);
        }
        shape[axis] = count.clone();
        self.step("edge", Op::broadcast { shape }, &[piece])
    }
}

/// A pooling window, as its op has it.
struct Window<'a> {
    kernel: &'a [usize],
    stride: &'a [usize],
    dilation: &'a [usize],
    pad: &'a [i64],
    layout: Layout,
}

impl Window<'_> {
    /// Low and high padding per axis, and how far the last window hangs over the padded end.
    fn borders(&self, x: &TensorType, out: &TensorType) -> (Vec<Dim>, Vec<Dim>, Vec<Dim>) {
        let (low, high) = spatial_padding(self.pad, x.rank(), self.layout);
        let mut hang = vec![Dim::ZERO; x.rank()];
        for (i, axis) in spatial_axes(x.rank(), self.layout).into_iter().enumerate() {
            let reach = (out.dims[axis].clone() - 1) * self.stride[i] + (self.kernel[i] - 1) * self.dilation[i] + 1;
            let there = x.dims[axis].clone() + low[axis].clone() + high[axis].clone();
            hang[axis] = (reach - there).maximum(&Dim::ZERO);
        }
        (low, high, hang)
    }

    fn max_pool(&self) -> Op {
        Op::max_pool {
            kernel: self.kernel.to_vec(),
            stride: self.stride.to_vec(),
            pad: vec![0; self.pad.len()],
            dilation: self.dilation.to_vec(),
            ceil: false,
            layout: self.layout,
        }
    }

    fn avg_pool(&self) -> Op {
        Op::avg_pool {
            kernel: self.kernel.to_vec(),
            stride: self.stride.to_vec(),
            pad: vec![0; self.pad.len()],
            dilation: self.dilation.to_vec(),
            ceil: false,
            count_pad: true,
            layout: self.layout,
        }
    }
}

fn has_padding(pad: &[i64]) -> bool {
    pad.iter().any(|&p| p != 0)
}

/// The spatial axes of an image-like tensor of this rank.
pub(crate) fn spatial_axes(rank: usize, layout: Layout) -> Vec<usize> {
    match layout {
        Layout::First => (2..rank).collect(),
        Layout::Last => (1..rank - 1).collect(),
    }
}

/// `pad` (all lows, then all highs) as lows and highs of every axis.
fn spatial_padding(pad: &[i64], rank: usize, layout: Layout) -> (Vec<Dim>, Vec<Dim>) {
    let (mut low, mut high) = (vec![Dim::ZERO; rank], vec![Dim::ZERO; rank]);
    for (i, axis) in spatial_axes(rank, layout).into_iter().enumerate() {
        low[axis] = Dim::from(pad[i]);
        high[axis] = Dim::from(pad[pad.len() / 2 + i]);
    }
    (low, high)
}

fn added(a: &[Dim], b: &[Dim]) -> Vec<Dim> {
    a.iter().zip(b).map(|(a, b)| a.clone() + b.clone()).collect()
}

fn lowest_finite(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => -65504.0,
        DType::BF16 => -3.3895313892515355e38,
        DType::F32 => f32::MIN.into(),
        _ => f64::MIN,
    }
}

/// The lowest value of an integer type; exact as f64 for the types that pooling takes (8 bits).
fn lowest_int(dtype: DType) -> f64 {
    if dtype.is_signed_int() { -(2f64.powi(8 * dtype.size() as i32 - 1)) } else { 0.0 }
}
