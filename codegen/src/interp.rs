//! Runs kernels of the kernel IR point by point: slow, and so plain that it is the oracle of the emitters.
//!
//! Expressions mean what [`ir::scalar`](egret_ir::scalar) says. A contraction is summed in f32 by fused multiply-add in the
//! order of `k`, as compiled code does, so it agrees to the bit; other sums are in f64, so compiled code agrees to within
//! rounding. **Invariant.** Every access is checked: an offset outside its buffer, or an element that two points write, is an
//! error that says which.

use crate::kernel::{
    Axis, Block, Blocks, Body, BufferId, Cell, Chain, Contract, Expr, ExprKind, Fold, Kernel, Literal, Panels, Pass, Piece, Recur, Rows,
    Serial, TopK, Winograd,
};
use crate::winograd::{self, INPUTS, Numbers, OUTPUTS, PRODUCTS};
use egret_ir::scalar::{Typed, TypedKind};
use egret_ir::{Bindings, DType, Dim, Element, Tensor};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

/// The contents of a buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    /// The type of the elements.
    pub dtype: DType,
    /// The elements, as memory holds them.
    pub elements: Vec<Element>,
}

impl Memory {
    /// The elements of a tensor, in order.
    pub fn of(tensor: &Tensor) -> Memory {
        Memory { dtype: tensor.dtype(), elements: tensor.elements().collect() }
    }

    /// `count` zeros.
    pub fn zeros(dtype: DType, count: usize) -> Memory {
        Memory { dtype, elements: vec![Element::zero(dtype); count] }
    }

    /// A tensor of this shape with the elements.
    ///
    /// # Errors
    /// When the number of elements is not the shape's.
    pub fn tensor(&self, shape: Vec<usize>) -> Result<Tensor, String> {
        let count: usize = shape.iter().product();
        match count == self.elements.len() {
            true => Ok(Tensor::from_elements(self.dtype, shape, self.elements.iter().copied())),
            false => Err(format!("{} elements do not make {}{shape:?}", self.elements.len(), self.dtype)),
        }
    }
}

/// Runs one part of a kernel. `lanes` is that of the target that packed operands were packed for.
///
/// Parts divide the points of the outer loops evenly here, which need not be how compiled code divides them.
///
/// # Errors
/// A sentence, when the kernel does something that it must not.
pub fn run(kernel: &Kernel, sizes: &Bindings, lanes: usize, buffers: &mut [Memory], part: usize, parts: usize) -> Result<(), String> {
    if buffers.len() != kernel.buffers.len() {
        return Err(format!("the kernel has {} buffers, {} were given", kernel.buffers.len(), buffers.len()));
    }
    for (given, wanted) in buffers.iter().zip(&kernel.buffers) {
        if given.dtype != wanted.dtype {
            return Err(format!("buffer `{}` holds {}, {} was given", wanted.name, wanted.dtype, given.dtype));
        }
    }
    let writers = buffers.iter().map(|b| vec![0; b.elements.len()]).collect();
    let mut machine = Machine { kernel, buffers, symbols: sizes.clone(), vars: HashMap::new(), writers, point: 0, lanes, part, parts };
    match &kernel.body {
        Body::Map(map) => machine.pieces(&map.pieces),
        Body::Rows(rows) => machine.rows(rows),
        Body::Contract(contracts) => contracts.iter().try_for_each(|c| machine.contract(c)),
        Body::Winograd(w) => machine.winograd(w),
        Body::Chain(chain) => machine.chain(chain),
        Body::Recur(recur) => machine.recur(recur),
        Body::TopK(top_k) => machine.top_k(top_k),
        Body::Serial(serial) => machine.serial(serial),
    }?;
    machine.pieces(&kernel.borders)
}

/// Runs a whole kernel.
///
/// # Errors
/// As [`run`].
pub fn run_whole(kernel: &Kernel, sizes: &Bindings, lanes: usize, buffers: &mut [Memory]) -> Result<(), String> {
    run(kernel, sizes, lanes, buffers, 0, 1)
}

struct Machine<'a> {
    kernel: &'a Kernel,
    buffers: &'a mut [Memory],
    symbols: Bindings,
    vars: HashMap<Arc<str>, Element>,
    /// Which point wrote each element of each buffer, from 1.
    writers: Vec<Vec<usize>>,
    /// The number of the current point of the outer loops, from 1.
    point: usize,
    lanes: usize,
    part: usize,
    parts: usize,
}

type Checked<T> = Result<T, String>;

impl Machine<'_> {
    fn index(&self, d: &Dim) -> Checked<i64> {
        d.eval(&self.symbols).ok_or_else(|| format!("`{d}` has no value here"))
    }

    fn count(&self, axes: &[Axis]) -> Checked<usize> {
        axes.iter().try_fold(1, |n, a| Ok(n * usize::try_from(self.index(&a.extent)?).unwrap_or(0)))
    }

    /// Runs `f` at every point of `axes`, the last one fastest.
    fn each(&mut self, axes: &[Axis], f: &mut impl FnMut(&mut Self) -> Checked<()>) -> Checked<()> {
        let Some((first, rest)) = axes.split_first() else { return f(self) };
        for i in 0..self.index(&first.extent)? {
            self.symbols.insert(first.name.clone(), i);
            self.each(rest, f)?;
        }
        self.symbols.remove(&first.name);
        Ok(())
    }

    /// Runs `f` at this part's points of the outer loops.
    fn each_of_part(&mut self, axes: &[Axis], f: &mut impl FnMut(&mut Self) -> Checked<()>) -> Checked<()> {
        let count = self.count(axes)?;
        let (from, to) = (self.part * count / self.parts, (self.part + 1) * count / self.parts);
        let mut number = 0;
        self.each(axes, &mut |m| {
            let mine = (from..to).contains(&number);
            number += 1;
            m.point += 1;
            if mine { f(m) } else { Ok(()) }
        })
    }

    fn load(&self, buffer: BufferId, offset: i64) -> Checked<Element> {
        let memory = &self.buffers[buffer.0];
        let element = usize::try_from(offset).ok().and_then(|i| memory.elements.get(i));
        element.copied().ok_or_else(|| {
            let name = &self.kernel.buffers[buffer.0].name;
            format!("load of `{name}`[{offset}], which has {} elements, at {}", memory.elements.len(), self.place())
        })
    }

    fn store(&mut self, buffer: BufferId, offset: i64, value: Element) -> Checked<()> {
        let (name, count) = (&self.kernel.buffers[buffer.0].name, self.buffers[buffer.0].elements.len());
        let i = usize::try_from(offset).ok().filter(|i| *i < count);
        let i = i.ok_or_else(|| format!("store to `{name}`[{offset}], which has {count} elements, at {}", self.place()))?;
        if !self.kernel.buffers[buffer.0].written {
            return Err(format!("store to `{name}`, which is only read"));
        }
        let writer = self.writers[buffer.0][i];
        if writer != 0 && writer != self.point {
            return Err(format!("`{name}`[{offset}] is written by two points, the second is {}", self.place()));
        }
        self.writers[buffer.0][i] = self.point;
        self.buffers[buffer.0].elements[i] = value.rounded(self.buffers[buffer.0].dtype);
        Ok(())
    }

    /// The current loop indices, for messages.
    fn place(&self) -> String {
        let symbols: Vec<String> = self.symbols.iter().map(|(name, v)| format!("{name} = {v}")).collect();
        symbols.join(", ")
    }

    fn eval(&self, expr: &Expr) -> Checked<Element> {
        Ok(match &*expr.kind {
            ExprKind::Load(buffer, offset) => self.load(*buffer, self.index(offset)?)?,
            ExprKind::Index(d) => Element::Int(self.index(d)?.into()),
            ExprKind::Const(Literal::Float(bits)) => Element::Float(f64::from_bits(*bits)).rounded(wide(expr.dtype)),
            ExprKind::Const(Literal::Int(v)) => Element::Int((*v).into()).rounded(expr.dtype),
            ExprKind::Var(name) => *self.vars.get(name).ok_or_else(|| format!("`{name}` is used before it is computed"))?,
            ExprKind::Un(op, x) => one_node(expr.dtype, TypedKind::Un(*op, arg(0, x.dtype)), &[self.eval(x)?]),
            ExprKind::Bin(op, x, y) => {
                one_node(expr.dtype, TypedKind::Bin(*op, arg(0, x.dtype), arg(1, y.dtype)), &[self.eval(x)?, self.eval(y)?])
            }
            ExprKind::Select(c, x, y) => match self.eval(c)?.as_bool() {
                true => self.eval(x)?,
                false => self.eval(y)?,
            },
            ExprKind::Bits(x) => {
                let stored = Tensor::scalar(x.dtype, self.eval(x)?.rounded(x.dtype));
                Tensor::new(expr.dtype, vec![], stored.bytes().clone())?.get(0)
            }
            ExprKind::Cast(x) => {
                let value = self.eval(x)?.rounded(x.dtype);
                let node = Typed { dtype: expr.dtype, kind: TypedKind::Cast(Box::new(Typed { dtype: x.dtype, kind: TypedKind::Arg(0) })) };
                node.eval(&[value])
            }
        })
    }

    /// Binds the indices of a block, runs `f`, and performs the stores.
    fn block_with(&mut self, block: &Block, f: &mut impl FnMut(&mut Self) -> Checked<()>) -> Checked<()> {
        for l in &block.lets {
            let (value, extent) = (self.eval(&l.value)?.as_int(), self.index(&l.extent)?);
            let held = value.clamp(0, (i128::from(extent) - 1).max(0)) as i64;
            self.symbols.insert(l.name.clone(), held);
        }
        f(self)?;
        let values: Vec<Element> = block.stores.iter().map(|s| self.eval(&s.value)).collect::<Checked<_>>()?;
        for (store, value) in block.stores.iter().zip(values) {
            self.store(store.buffer, self.index(&store.offset)?, value)?;
        }
        for l in &block.lets {
            self.symbols.remove(&l.name);
        }
        Ok(())
    }

    fn block(&mut self, block: &Block) -> Checked<()> {
        self.block_with(block, &mut |_| Ok(()))
    }

    fn pieces(&mut self, pieces: &[Piece]) -> Checked<()> {
        pieces.iter().try_for_each(|piece| self.each_of_part(&piece.axes, &mut |m| m.block(&piece.block)))
    }

    fn rows(&mut self, rows: &Rows) -> Checked<()> {
        self.each_of_part(&rows.axes, &mut |m| {
            m.vars.clear();
            rows.passes.iter().try_for_each(|pass| m.pass(rows, pass))
        })
    }

    fn pass(&mut self, rows: &Rows, pass: &Pass) -> Checked<()> {
        let mut folded: Vec<Element> = pass.reduces.iter().map(|r| start(r.fold, r.value.dtype)).collect();
        let mut step = |m: &mut Self| {
            m.block_with(&pass.block, &mut |m| {
                for (reduce, folded) in pass.reduces.iter().zip(&mut folded) {
                    *folded = combine(reduce.fold, *folded, m.eval(&reduce.value)?, reduce.value.dtype);
                }
                Ok(())
            })
        };
        match pass.over_row {
            true => self.each(&rows.reduced, &mut step)?,
            false => step(self)?,
        }
        for (reduce, value) in pass.reduces.iter().zip(folded) {
            self.vars.insert(reduce.var.clone(), value.rounded(wide(reduce.value.dtype)));
        }
        Ok(())
    }

    fn contract(&mut self, c: &Contract) -> Checked<()> {
        let axes = [c.batch.as_slice(), &c.rows, std::slice::from_ref(&c.cols)].concat();
        let k_count = self.count(&c.k)?;
        let width = c.tile.vectors * self.lanes;
        self.each_of_part(&axes, &mut |m| {
            let column = m.symbols[&c.cols.name] as usize;
            let (mut acc, mut exact, mut step) = (0f32, 0i32, 0);
            m.each(&c.k, &mut |m| {
                let a = m.load(c.a.0, m.index(&c.a.1)?)?;
                if let Panels::Blocks(buffer, offset, blocks) = &c.b {
                    let panel = m.index(offset)? + (column / width * width * blocks.column_bytes(k_count)) as i64;
                    let weight = m.weight(*buffer, panel, *blocks, step, [column % width, width])?;
                    acc = (a.as_f64() as f32).mul_add(weight, acc);
                    step += 1;
                    return Ok(());
                }
                let at = match &c.b {
                    Panels::Blocks(..) => unreachable!("blocks have been read"),
                    Panels::Strided(_, offset) => m.index(offset)?,
                    Panels::Packed(_, offset) => m.index(offset)? + ((column / width * k_count + step) * width + column % width) as i64,
                    Panels::Paired(_, offset) | Panels::Quads(_, offset) => {
                        let (run, together) = (m.count(&c.k[c.k.len() - 1..])?, c.b.together());
                        let word = |step: usize| step / run * run.div_ceil(together) + step % run / together;
                        let row = column / width * word(k_count) + word(step);
                        m.index(offset)? + (together * (row * width + column % width) + step % run % together) as i64
                    }
                };
                let b = m.load(c.b.buffer(), at)?;
                match c.b.sum() {
                    DType::I32 => exact = exact.wrapping_add((a.as_int() * b.as_int()) as i32),
                    _ => acc = (a.as_f64() as f32).mul_add(b.as_f64() as f32, acc),
                }
                step += 1;
                Ok(())
            })?;
            let sum = if c.b.sum() == DType::I32 { Element::Int(exact.into()) } else { Element::Float(acc.into()) };
            m.vars.insert("acc".into(), sum);
            m.block(&c.epilogue)
        })
    }

    /// The weight of few bits at a step, in a column of a panel that has so many.
    fn weight(&self, buffer: BufferId, panel: i64, blocks: Blocks, step: usize, [column, width]: [usize; 2]) -> Checked<f32> {
        let byte = |at: usize| self.load(buffer, panel + at as i64).map(|byte| byte.as_int() as u8);
        let (block, within) = (step / blocks.steps, step % blocks.steps);
        let start = block * width * blocks.block_bytes(blocks.steps);
        let word = |at: usize| -> Checked<u32> { Ok(u32::from_le_bytes([byte(at)?, byte(at + 1)?, byte(at + 2)?, byte(at + 3)?])) };
        let scale = f32::from_bits(word(start + 4 * column)?);
        let zero = if blocks.has_zeros { byte(start + 4 * width + column)? as i8 } else { 0 };
        let integers = start + width * blocks.header();
        let q = match blocks.is_in_words() {
            true => {
                let word = word(integers + 4 * (within / Blocks::IN_WORD * width + column))?;
                i64::from((word << (28 - 4 * (within % Blocks::IN_WORD))) as i32 >> 28)
            }
            false => i64::from(byte(integers + within * width + column)? as i8),
        };
        Ok((q - i64::from(zero)) as f32 * scale)
    }

    fn winograd(&mut self, w: &Winograd) -> Checked<()> {
        let tiles = Axis::new("%tile", w.all_tiles());
        self.each_of_part(std::slice::from_ref(&tiles), &mut |m| {
            let (images, tile) = w.tile_at(&tiles.index());
            for (axis, at) in w.batch.iter().zip(&images) {
                let at = m.index(at)?;
                m.symbols.insert(axis.name.clone(), at);
            }
            let channels = m.transformed_inputs(w, &tile)?;
            m.each(std::slice::from_ref(&w.cols), &mut |m| m.outputs_of_tile(w, &tile, &channels))
        })
    }

    /// The 36 transformed inputs of a tile, for every input channel.
    fn transformed_inputs(&mut self, w: &Winograd, tile: &[Dim; 2]) -> Checked<Vec<Vec<f32>>> {
        let mut channels = vec![];
        self.each(std::slice::from_ref(&w.depth), &mut |m| {
            let read = |at: usize| {
                let place = [w.input_at(0, &tile[0], at / INPUTS), w.input_at(1, &tile[1], at % INPUTS)];
                let offset = w.a.1.substitute(&|s| w.rows.iter().position(|a| &*a.name == s).map(|i| place[i].clone()));
                Ok(m.load(w.a.0, m.index(&offset)?)?.as_f64() as f32)
            };
            let inputs: Vec<f32> = (0..PRODUCTS).map(read).collect::<Checked<_>>()?;
            channels.push(winograd::input(&Numbers, &inputs));
            Ok(())
        })?;
        Ok(channels)
    }

    /// The epilogue at the outputs of a tile that the image has, for the current output channel.
    fn outputs_of_tile(&mut self, w: &Winograd, tile: &[Dim; 2], channels: &[Vec<f32>]) -> Checked<()> {
        let (column, width) = (self.symbols[&w.cols.name] as usize, w.tile.vectors * self.lanes);
        let (panels, depth) = ((self.index(&w.cols.extent)? as usize).div_ceil(width), channels.len());
        let product = |product: usize| {
            let panel = (product * panels + column / width) * depth;
            channels.iter().enumerate().try_fold(0f32, |sum, (k, values)| {
                let weight = self.load(w.weights, ((panel + k) * width + column % width) as i64)?.as_f64() as f32;
                Ok(values[product].mul_add(weight, sum))
            })
        };
        let products: Vec<f32> = (0..PRODUCTS).map(product).collect::<Checked<_>>()?;
        for (at, value) in winograd::output(&Numbers, &products).into_iter().enumerate() {
            let place = [(0, at / OUTPUTS), (1, at % OUTPUTS)].map(|(i, within)| self.index(&(tile[i].clone() * OUTPUTS + within)));
            let place = [place[0].clone()?, place[1].clone()?];
            if place[0] < self.index(&w.rows[0].extent)? && place[1] < self.index(&w.rows[1].extent)? {
                for (axis, at) in w.rows.iter().zip(place) {
                    self.symbols.insert(axis.name.clone(), at);
                }
                self.vars.insert("acc".into(), Element::Float(value.into()));
                self.block(&w.epilogue)?;
            }
        }
        Ok(())
    }

    fn chain(&mut self, c: &Chain) -> Checked<()> {
        let rows = [c.batch.as_slice(), &c.rows].concat();
        self.each_of_part(&rows, &mut |m| {
            let weights = softmax(m.scores(c)?);
            m.each(std::slice::from_ref(&c.cols), &mut |m| {
                let mut sum = 0.0;
                for (n, weight) in weights.iter().enumerate() {
                    m.symbols.insert(c.keys.name.clone(), n as i64);
                    sum += weight * m.load(c.v.0, m.index(&c.v.1)?)?.as_f64();
                }
                m.vars.insert("acc".into(), Element::Float(sum).rounded(DType::F32));
                m.block(&c.epilogue)
            })
        })
    }

    /// The scores of the keys that the current row sees.
    fn scores(&mut self, c: &Chain) -> Checked<Vec<f64>> {
        let seen = self.index(&c.seen)?.clamp(0, self.index(&c.keys.extent)?);
        let mut scores = vec![];
        for n in 0..seen {
            self.symbols.insert(c.keys.name.clone(), n);
            let mut sum = 0.0;
            self.each(std::slice::from_ref(&c.depth), &mut |m| {
                sum += m.load(c.q.0, m.index(&c.q.1)?)?.as_f64() * m.load(c.k.0, m.index(&c.k.1)?)?.as_f64();
                Ok(())
            })?;
            self.vars.insert("acc".into(), Element::Float(sum).rounded(DType::F32));
            self.block_with(&c.score_block(), &mut |m| {
                scores.push(m.eval(&c.score)?.as_f64());
                Ok(())
            })?;
        }
        Ok(scores)
    }

    fn serial(&mut self, s: &Serial) -> Checked<()> {
        self.each_of_part(&s.axes, &mut |m| {
            s.nests.iter().try_for_each(|nest| m.each(&nest.piece.axes, &mut |m| m.block(&nest.piece.block)))
        })
    }

    fn top_k(&mut self, t: &TopK) -> Checked<()> {
        let (extent, count, inner) = (self.index(&t.extent)?, self.index(&t.count)?, self.index(&t.rows[1].extent)?);
        self.each_of_part(&t.rows, &mut |m| {
            let [o, i] = [m.index(&t.rows[0].index())?, m.index(&t.rows[1].index())?];
            let elements = (0..extent).map(|e| m.load(t.x, (o * extent + e) * inner + i)).collect::<Checked<Vec<Element>>>()?;
            let mut order: Vec<usize> = (0..elements.len()).collect();
            let rank = |a: usize, b: usize| compare(elements[a], elements[b]);
            order.sort_by(|&a, &b| if t.largest { rank(b, a) } else { rank(a, b) });
            for (place, &from) in (0..count).zip(&order) {
                let to = (o * count + place) * inner + i;
                m.store(t.values, to, elements[from])?;
                m.store(t.indices, to, Element::Int(from as i128))?;
            }
            Ok(())
        })
    }

    fn recur(&mut self, r: &Recur) -> Checked<()> {
        let (steps, batch, hidden, gates) = (self.index(&r.steps)?, self.index(&r.batch)?, r.hidden as i64, r.cell.gates() as i64);
        let (from, to) = (self.part as i64 * batch / self.parts as i64, (self.part as i64 + 1) * batch / self.parts as i64);
        for b in from..to {
            let row =
                |m: &Self, buffer, at: i64| -> Checked<Vec<f64>> { (0..hidden).map(|j| Ok(m.load(buffer, at + j)?.as_f64())).collect() };
            let mut h = row(self, r.h0, b * hidden)?;
            let mut c = r.c0.map_or(Ok(vec![]), |c0| row(self, c0, b * hidden))?;
            for step in 0..steps {
                self.point += 1;
                let t = if r.reverse { steps - 1 - step } else { step };
                let at = t * batch + b;
                let (next_h, next_c) = self.cell(r, at * gates * hidden, &h, &c)?;
                (h, c) = (next_h, next_c);
                for (j, &v) in h.iter().enumerate() {
                    self.store(r.y, at * hidden + j as i64, Element::Float(v))?;
                }
            }
            self.point += 1;
            for j in 0..hidden {
                self.store(r.h, b * hidden + j, Element::Float(h[j as usize]))?;
                if let Some(last) = r.c {
                    self.store(last, b * hidden + j, Element::Float(c[j as usize]))?;
                }
            }
        }
        Ok(())
    }

    /// One step of one row of the batch: the new hidden state and the new cell state.
    fn cell(&self, r: &Recur, gates_at: i64, h: &[f64], c: &[f64]) -> Checked<(Vec<f64>, Vec<f64>)> {
        let hidden = r.hidden;
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let input = |g: usize, j: usize| -> Checked<f64> { Ok(self.load(r.gates, gates_at + (g * hidden + j) as i64)?.as_f64()) };
        let recurrent = |g: usize, j: usize, h: &[f64]| -> Checked<f64> {
            let at = |k: usize| ((j / self.lanes * hidden + k) * r.cell.gates() + g) * self.lanes + j % self.lanes;
            (0..hidden).map(|k| Ok(h[k] * self.load(r.weights, at(k) as i64)?.as_f64())).sum()
        };
        let gate = |g: usize, j: usize| -> Checked<f64> { Ok(input(g, j)? + recurrent(g, j, h)?) };
        let (mut next_h, mut next_c) = (vec![0.0; hidden], c.to_vec());
        let dtype = self.buffers[r.y.0].dtype;
        let narrow = |v: f64| Element::Float(v).rounded(dtype).as_f64();
        match r.cell {
            Cell::Lstm => {
                for j in 0..hidden {
                    next_c[j] = narrow(sigmoid(gate(2, j)?) * c[j] + sigmoid(gate(0, j)?) * gate(3, j)?.tanh());
                    next_h[j] = narrow(sigmoid(gate(1, j)?) * next_c[j].tanh());
                }
            }
            Cell::Gru { linear_before_reset } => {
                let reset: Vec<f64> = (0..hidden).map(|j| Ok(sigmoid(gate(1, j)?))).collect::<Checked<_>>()?;
                let before: Vec<f64> = reset.iter().zip(h).map(|(r, h)| narrow(r * h)).collect();
                for j in 0..hidden {
                    let bias = r.bias.map_or(Ok(0.0), |b| Ok::<_, String>(self.load(b, j as i64)?.as_f64()))?;
                    let candidate = match linear_before_reset {
                        true => input(2, j)? + reset[j] * (recurrent(2, j, h)? + bias),
                        false => input(2, j)? + recurrent(2, j, &before)?,
                    };
                    let update = sigmoid(gate(0, j)?);
                    next_h[j] = narrow((1.0 - update) * candidate.tanh() + update * h[j]);
                }
            }
            Cell::Tanh | Cell::Relu | Cell::Sigmoid => {
                for (j, next) in next_h.iter_mut().enumerate() {
                    let x = gate(0, j)?;
                    *next = narrow(match r.cell {
                        Cell::Tanh => x.tanh(),
                        Cell::Relu => {
                            if x.is_nan() {
                                x
                            } else {
                                x.max(0.0)
                            }
                        }
                        _ => sigmoid(x),
                    });
                }
            }
        }
        Ok((next_h, next_c))
    }
}

/// The weights of some scores: zero where no score is above -inf.
fn softmax(scores: Vec<f64>) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, |x, y| if x.is_nan() || x > y { x } else { y });
    if largest == f64::NEG_INFINITY {
        return vec![0.0; scores.len()];
    }
    let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

/// Narrow floats are held in f32 inside expressions.
fn wide(dtype: DType) -> DType {
    dtype.wide()
}

fn arg(i: usize, dtype: DType) -> Box<Typed> {
    Box::new(Typed { dtype: wide(dtype), kind: TypedKind::Arg(i) })
}

fn one_node(dtype: DType, kind: TypedKind, operands: &[Element]) -> Element {
    Typed { dtype: wide(dtype), kind }.eval(operands)
}

/// NaN is above every number, and equal to NaN.
fn compare(a: Element, b: Element) -> Ordering {
    match (a, b) {
        (Element::Int(a), Element::Int(b)) => a.cmp(&b),
        (a, b) => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or_else(|| a.as_f64().is_nan().cmp(&b.as_f64().is_nan())),
    }
}

/// What a fold starts from.
fn start(fold: Fold, dtype: DType) -> Element {
    let (low, high) = dtype.int_range();
    match (fold, dtype) {
        (Fold::Sum, _) => Element::zero(dtype),
        (Fold::Max, DType::Bool) => Element::Bool(false),
        (Fold::Min | Fold::Prod, DType::Bool) => Element::Bool(true),
        (Fold::Prod, t) if t.is_float() => Element::Float(1.0),
        (Fold::Max, t) if t.is_float() => Element::Float(f64::NEG_INFINITY),
        (Fold::Min, t) if t.is_float() => Element::Float(f64::INFINITY),
        (Fold::Prod, _) => Element::Int(1),
        (Fold::Max, _) => Element::Int(low),
        (Fold::Min, _) => Element::Int(high),
    }
}

fn combine(fold: Fold, x: Element, y: Element, dtype: DType) -> Element {
    match (fold, x, y) {
        (Fold::Sum, Element::Float(x), Element::Float(y)) => Element::Float(x + y),
        (Fold::Prod, Element::Float(x), Element::Float(y)) => Element::Float(x * y),
        (Fold::Max, Element::Float(x), Element::Float(y)) => Element::Float(if x.is_nan() || x > y { x } else { y }),
        (Fold::Min, Element::Float(x), Element::Float(y)) => Element::Float(if x.is_nan() || x < y { x } else { y }),
        (Fold::Sum, Element::Int(x), Element::Int(y)) => Element::Int(x + y).rounded(dtype),
        (Fold::Prod, Element::Int(x), Element::Int(y)) => Element::Int(x.wrapping_mul(y)).rounded(dtype),
        (Fold::Max, Element::Int(x), Element::Int(y)) => Element::Int(x.max(y)),
        (Fold::Min, Element::Int(x), Element::Int(y)) => Element::Int(x.min(y)),
        (Fold::Sum | Fold::Max, x, y) => Element::Bool(x.as_bool() || y.as_bool()),
        (Fold::Prod | Fold::Min, x, y) => Element::Bool(x.as_bool() && y.as_bool()),
    }
}
