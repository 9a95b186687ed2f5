use super::*;

const F32: DType = DType::F32;

/// How far sums of rounded products and elementary functions in f32 and in f64 may be from the interpreter's, which are in f64.
const WITHIN: Within = Within::Relative(1e-5);
const WITHIN_F64: Within = Within::Relative(1e-13);

const CELLS: [Cell; 6] =
    [Cell::Lstm, Cell::Gru { linear_before_reset: false }, Cell::Gru { linear_before_reset: true }, Cell::Tanh, Cell::Relu, Cell::Sigmoid];

/// A layer and the extents of its run.
struct Layer {
    cell: Cell,
    hidden: usize,
    reverse: bool,
    dtype: DType,
}

impl Layer {
    fn has_bias(&self) -> bool {
        self.cell == Cell::Gru { linear_before_reset: true } && self.hidden != 5
    }

    fn kernel(&self, steps: Dim, batch: Dim) -> Kernel {
        let (lstm, bias) = (self.cell == Cell::Lstm, self.has_bias());
        let mut buffers = vec![input("gates", self.dtype), input("weights", self.dtype), input("h0", self.dtype)];
        let mut add = |buffer: Option<Buffer>| {
            buffers.extend(buffer.clone());
            buffer.map(|_| BufferId(buffers.len() - 1))
        };
        let bias = add(bias.then(|| input("bias", self.dtype)));
        let c0 = add(lstm.then(|| input("c0", self.dtype)));
        let y = add(Some(output("y", self.dtype))).unwrap();
        let h = add(Some(output("h", self.dtype))).unwrap();
        let c = add(lstm.then(|| output("c", self.dtype)));
        let recur = Recur {
            cell: self.cell,
            steps,
            batch,
            hidden: self.hidden,
            reverse: self.reverse,
            gates: BufferId(0),
            weights: BufferId(1),
            bias,
            h0: BufferId(2),
            c0,
            y,
            h,
            c,
        };
        Kernel::new(buffers, Body::Recur(recur))
    }

    /// Contents of the buffers; weights so small that states stay of the size of the input.
    fn data(&self, steps: usize, batch: usize, lanes: usize) -> Vec<Memory> {
        let (gates, h) = (self.cell.gates(), self.hidden);
        let mut numbers = Numbers::new((steps * 7 + batch * 3 + h) as u64);
        let mut weights = Memory::zeros(self.dtype, h.div_ceil(lanes) * h * gates * lanes);
        for (i, w) in weights.elements.iter_mut().enumerate() {
            let unit = i / (h * gates * lanes) * lanes + i % lanes;
            let value = numbers.small() / (h as f64).sqrt();
            *w = Element::Float(if unit < h { value } else { 0.0 }).rounded(self.dtype);
        }
        let mut data = vec![numbers.memory(self.dtype, steps * batch * gates * h), weights, numbers.memory(self.dtype, batch * h)];
        data.extend(self.has_bias().then(|| numbers.memory(self.dtype, h)));
        data.extend((self.cell == Cell::Lstm).then(|| numbers.memory(self.dtype, batch * h)));
        let results = [steps * batch * h, batch * h].into_iter().chain((self.cell == Cell::Lstm).then_some(batch * h));
        // What is written has other contents before, which must not matter.
        data.extend(results.map(|count| numbers.memory(self.dtype, count)));
        data
    }

    fn within(&self) -> Within {
        if self.dtype == DType::F64 { WITHIN_F64 } else { WITHIN }
    }

    /// Compares for extents that are known at run time only.
    fn check(&self, runs: &[(usize, usize)]) {
        let kernel = self.kernel(sym("T"), sym("B"));
        for target in targets() {
            let loaded = Loaded::new(std::slice::from_ref(&kernel), &target);
            for &(steps, batch) in runs {
                let sizes = Bindings::from([(name("T"), steps as i64), (name("B"), batch as i64)]);
                check_loaded(loaded.entry(0), &target, &kernel, &sizes, &self.data(steps, batch, target.lanes), self.within());
            }
        }
    }

    /// Compares for extents that are known when the kernel is compiled.
    fn check_fixed(&self, steps: usize, batch: usize) {
        let kernel = self.kernel(steps.into(), batch.into());
        for target in targets() {
            check_on(&target, &kernel, &[], &self.data(steps, batch, target.lanes), self.within());
        }
    }
}

/// Hidden sizes below, at and above those of vectors.
#[test]
fn every_cell() {
    let runs: Vec<(usize, usize)> = [0, 1, 4].into_iter().flat_map(|steps| [0, 1, 2, 3, 5].map(|batch| (steps, batch))).collect();
    for cell in CELLS {
        for hidden in [1, 5, 16, 17, 64] {
            for reverse in [false, true] {
                Layer { cell, hidden, reverse, dtype: F32 }.check(&runs);
            }
        }
    }
}

/// Tiles of four rows beside smaller ones, several vectors of units with a remainder.
#[test]
fn tiles() {
    for cell in CELLS {
        Layer { cell, hidden: 75, reverse: false, dtype: F32 }.check(&[(3, 7), (2, 12), (2, 21)]);
    }
}

#[test]
fn fixed_extents() {
    for (i, cell) in CELLS.into_iter().enumerate() {
        for (steps, batch) in [(0, 2), (1, 1), (4, 3), (2, 6), (3, 0)] {
            Layer { cell, hidden: [17, 64][i % 2], reverse: i % 3 == 0, dtype: F32 }.check_fixed(steps, batch);
        }
    }
}

#[test]
fn no_units() {
    Layer { cell: Cell::Lstm, hidden: 0, reverse: false, dtype: F32 }.check_fixed(2, 3);
}

#[test]
fn double_precision() {
    for cell in CELLS {
        Layer { cell, hidden: 19, reverse: true, dtype: DType::F64 }.check(&[(0, 3), (4, 5)]);
    }
}

/// Weights in registers and not, columns of one round of threads and of several, panels that are not whole.
#[test]
fn on_a_gpu() {
    let gpu = Target::named("cuda").unwrap();
    for (i, cell) in CELLS.into_iter().enumerate() {
        for (hidden, dtype) in [(1, F32), (18, F32), (64, F32), (131, F32), (19, DType::F64)] {
            let layer = Layer { cell, hidden, reverse: i % 2 == 0, dtype };
            for (steps, batch) in [(3, 2), (0, 1)] {
                let sizes = Bindings::from([(name("T"), steps as i64), (name("B"), batch as i64)]);
                crate::cuda::tests::check(&layer.kernel(sym("T"), sym("B")), &sizes, &layer.data(steps, batch, gpu.lanes), layer.within());
            }
        }
    }
}

/// NaN in an input makes the row's states NaN, and only that row's.
#[test]
fn not_a_number() {
    for cell in CELLS {
        let layer = Layer { cell, hidden: 17, reverse: false, dtype: F32 };
        let kernel = layer.kernel(2.into(), 5.into());
        for target in targets() {
            let mut data = layer.data(2, 5, target.lanes);
            data[0].elements[cell.gates() * 17..][..cell.gates() * 17].fill(Element::Float(f64::NAN));
            check_on(&target, &kernel, &[], &data, layer.within());
        }
    }
}

/// Code for a processor that this machine need not be.
#[test]
fn four_lanes() {
    let target = Target::named("aarch64").unwrap();
    for cell in CELLS {
        let kernel = Layer { cell, hidden: 17, reverse: false, dtype: F32 }.kernel(sym("T"), sym("B"));
        let text = crate::cpu::asm_text(&kernel, &target).unwrap();
        assert!(text.contains("fmla\tv") && !text.contains("\tbl\t"), "{text}");
    }
}
