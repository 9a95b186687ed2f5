//! Instances that chance does not find: what must fit together in rules with many attributes.
//!
//! What is bound here is left as it is when the left side is sampled; everything else is sampled as always.

use super::{Bound, Hint, Sampler};
use egret_ir::attr::AttrField;
use egret_ir::{DType, Dim, Element, Tensor, TensorType};
use std::sync::Arc;

impl Sampler {
    /// Binds variables of the rule of this name.
    pub(super) fn prepare(&mut self, rule: &str) {
        match rule {
            "reshape_rise_both" => {
                let rank = self.below(4);
                let dims = self.extents(rank);
                ["x", "y"].into_iter().for_each(|name| self.tensor(name, &dims));
            }
            "split_first" => {
                let (a, b, rows) = (1 + self.positive(), 1 + self.positive(), Dim::from(1 + self.positive()));
                self.tensor("x", &[Dim::from(a * b), rows.clone()]);
                self.attr_of("p", vec![1usize, 0]);
                self.attr_of("s", vec![rows, Dim::from(a), Dim::from(b)]);
            }
            "split_parts" => {
                let rank = self.positive();
                let (mut dims, axis) = (self.extents(rank), self.below(rank));
                ["x", "y"].into_iter().for_each(|name| self.tensor(name, &dims));
                dims.insert(axis, Dim::from(2));
                self.attr_of("axis", axis);
                self.attr_of("s", dims);
            }
            "transpose_parts" => {
                let [rows, cols] = self.some();
                ["x", "y"].into_iter().for_each(|name| self.tensor(name, &[rows.clone(), Dim::ONE, cols.clone()]));
                let perm = if self.chance(50) { vec![1usize, 0, 2] } else { vec![0, 2, 1] };
                self.attr_of("axis", 1usize);
                self.attr_of("p", perm);
            }
            "gather_run" => self.evenly_spaced(),
            "gather_every" => self.every_element(),
            "gather_same" => self.one_index(),
            "gather_slice" => self.slice_of_indices(),
            "gather_counted" => self.counted_elements(),
            "matmul_batch_split" | "matmul_batch_joined" | "reshape_sink_outer" => self.split_batch(rule),
            "gather_single" => {
                let (n, [inner]) = (1 + self.positive(), self.some());
                let indices: Vec<i64> = (0..self.positive()).map(|_| self.below(2 * n) as i64 - n as i64).collect();
                self.tensor("x", &[Dim::from(n), inner]);
                self.constant("i", Tensor::from_i64s(vec![indices.len(), 1], &indices));
            }
            "cumsum_narrow" => {
                self.attr_of("to", self.dtype);
                self.attr_of("up", DType::I64);
            }
            "cast_back" => {
                self.attr_of("to", self.dtype);
                let up = self.pick(&[DType::F32, DType::F64]);
                self.attr_of("up", up);
            }
            "gather_matrix" => self.all_of_a_matrix(),
            "softmax_hidden_below" | "softmax_hidden_where" => {
                let low = self.pick(&[-1e4, -1e9, -3e38, f64::NEG_INFINITY]);
                self.constant("c", Tensor::scalar(self.dtype, Element::Float(low)));
            }
            "attention_columns" => {
                let [outer, m, n, e] = self.some();
                self.attr_of("p", vec![0usize, 2, 1]);
                self.tensor("s", &[outer.clone(), m, n.clone()]);
                self.tensor("v", &[outer, e, n]);
            }
            "attention_repeated_mask"
            | "attention_condition"
            | "attention_triangle"
            | "attention_triangle_and"
            | "attention_triangle_add"
            | "attention_causal"
            | "attention_causal_masked" => self.masked(rule),
            "attention_guarded" | "attention_guarded_scaled" | "attention_guarded_masked" | "attention_guarded_scaled_masked" => {
                let [outer, m, n, d, e] = self.some();
                self.tensor("q", &[outer.clone(), m.clone(), d.clone()]);
                self.tensor("kt", &[outer.clone(), d, n.clone()]);
                self.tensor("v", &[outer, n.clone(), e]);
                self.tensor("mask", &[m, n]);
                self.attr_of("axes", vec![2usize]);
                let scale = self.element(self.dtype);
                self.constant("scale", Tensor::scalar(self.dtype, scale));
            }
            "attention_joined" | "attention_joined_masked" => self.joined_heads(),
            "attention_grouped" | "attention_grouped_masked" => self.grouped_heads(),
            "rotary_tables" | "rotary_halves" | "rotary_pairs" | "rotary_pair_tables" | "rotary_pair_repeats" => self.rotary(rule),
            _ => {}
        }
    }

    fn some<const N: usize>(&mut self) -> [Dim; N] {
        [(); N].map(|()| self.extent())
    }

    fn extents(&mut self, rank: usize) -> Vec<Dim> {
        (0..rank).map(|_| self.extent()).collect()
    }

    /// At least 1.
    fn positive(&mut self) -> usize {
        1 + self.below(3)
    }

    fn tensor(&mut self, name: &str, dims: &[Dim]) {
        self.variable(name, &Hint::Exactly(TensorType::new(self.dtype, dims.iter().cloned())));
    }

    fn condition(&mut self, name: &str, dims: &[Dim]) {
        self.variable(name, &Hint::Exactly(TensorType::new(DType::Bool, dims.iter().cloned())));
    }

    fn constant(&mut self, name: &str, tensor: Tensor) {
        self.instance.vars.insert(name.into(), Bound::Tensor(Arc::new(tensor), true));
    }

    fn attr_of(&mut self, name: &str, value: impl AttrField) {
        self.instance.vars.insert(name.into(), Bound::Attr(value.to_attr()));
    }

    fn evenly_spaced(&mut self) {
        let (first, step, count) = (self.below(3), 1 + self.below(2), self.positive());
        let axis = self.below(2);
        let mut dims = self.extents(2);
        dims[axis] = Dim::from(first + step * count);
        let mut indices: Vec<i64> = (0..count).map(|i| (first + step * i) as i64).collect();
        if self.chance(30) {
            indices.reverse();
        }
        let shape = if self.chance(50) { vec![1, count] } else { vec![count] };
        self.constant("i", Tensor::from_i64s(shape, &indices));
        self.tensor("x", &dims);
        self.attr_of("axis", axis);
    }

    fn one_index(&mut self) {
        let (axis, n, count) = (self.below(2), self.positive(), 1 + self.positive());
        let mut dims = self.extents(2);
        dims[axis] = Dim::from(n);
        let index = self.below(2 * n) as i64 - n as i64;
        self.tensor("x", &dims);
        self.constant("i", Tensor::from_i64s(vec![count], &vec![index; count]));
        self.attr_of("axis", axis);
    }

    fn slice_of_indices(&mut self) {
        let (n, first) = (1 + self.positive(), self.below(2));
        let [inner] = self.some();
        let count = n - first;
        self.tensor("x", &[Dim::from(n), inner]);
        self.constant("i", Tensor::from_i64s(vec![1, count], &(first..n).map(|i| i as i64).collect::<Vec<_>>()));
        self.attr_of("axis", 0usize);
        self.attr_of("start", vec![Dim::ZERO, Dim::from(count - 1)]);
        self.attr_of("shape", vec![Dim::ONE, Dim::ONE]);
        self.attr_of("step", vec![1i64, 1]);
    }

    fn counted_elements(&mut self) {
        let [m, n] = self.some();
        self.tensor("x", &[m.clone(), n.clone()]);
        self.attr_of("flat", vec![m.clone() * n.clone(), Dim::ONE]);
        self.attr_of("s", vec![Dim::ONE, n.clone()]);
        self.attr_of("t", vec![m, Dim::ONE, Dim::ONE]);
        self.attr_of("j", 1usize);
        self.attr_of("i", 0usize);
        self.attr_of("d", DType::I64);
        self.attr_of("n", vec![n]);
    }

    fn every_element(&mut self) {
        let (m, n) = (self.positive(), self.positive());
        let tuples: Vec<i64> = (0..m * n).flat_map(|at| [(at / n) as i64, (at % n) as i64]).collect();
        self.tensor("x", &[Dim::from(m), Dim::from(n)]);
        self.constant("i", Tensor::from_i64s(vec![m, 1, n, 2], &tuples));
    }

    fn all_of_a_matrix(&mut self) {
        let [m, n] = self.some();
        self.tensor("x", &[m.clone(), n.clone()]);
        self.attr_of("s", vec![m, Dim::ONE, n, Dim::ONE]);
        self.attr_of("i", 0usize);
        self.attr_of("j", 2usize);
        let counted = self.pick(&[DType::I64, DType::I32]);
        self.attr_of("d", counted);
        self.attr_of("axis", 3usize);
    }

    /// Matrices of `[b, h, m, n]` and `[b*h, m, n]`.
    fn split_batch(&mut self, rule: &str) {
        let [b, h, m, k, n] = self.some();
        let joined = b.clone() * h.clone();
        match rule {
            "matmul_batch_split" => {
                self.tensor("x", &[joined.clone(), m.clone(), k.clone()]);
                self.tensor("y", &[joined, k, n.clone()]);
                self.attr_of("s", vec![b, h, m, n]);
            }
            "matmul_batch_joined" => {
                self.tensor("x", &[b, h, m.clone(), k.clone()]);
                self.tensor("y", &[joined.clone(), k.clone(), n]);
                self.attr_of("s", vec![joined, m, k]);
            }
            _ => {
                let repeated = [vec![Dim::ONE, m.clone(), n.clone()], vec![joined.clone(), Dim::ONE, n.clone()], vec![n.clone()]];
                let repeated = self.pick(&repeated);
                self.tensor("x", &[joined, m.clone(), n.clone()]);
                self.tensor("y", &repeated);
                self.attr_of("s", vec![b, h, m, n]);
            }
        }
    }

    /// Operands of an attention of rank 3, and a mask of the kind that the rule is about.
    fn masked(&mut self, rule: &str) {
        let [outer, m, n, d, e] = self.some();
        self.tensor("q", &[outer.clone(), m.clone(), d.clone()]);
        self.tensor("k", &[outer.clone(), n.clone(), d]);
        self.tensor("v", &[outer.clone(), n.clone(), e]);
        self.attr_of("s", vec![Dim::ONE, n.clone()]);
        match rule {
            "attention_repeated_mask" => {
                self.attr_of("s", vec![outer, m.clone(), n.clone()]);
                self.tensor("m", &[m, Dim::ONE]);
            }
            "attention_condition" => {
                self.condition("m", &[m, n]);
                self.constant("c", Tensor::scalar(self.dtype, Element::Float(f64::NEG_INFINITY)));
            }
            "attention_triangle" => {
                let conditions = self.chance(50);
                self.triangle("m", &m, &n, conditions);
            }
            "attention_triangle_and" => {
                self.triangle("t", &m, &n, true);
                self.condition("m", &[m, n]);
            }
            "attention_triangle_add" => {
                self.triangle("t", &m, &n, false);
                self.tensor("m", &[m, n]);
            }
            _ => {
                self.attr_of("t", vec![m.clone(), Dim::ONE]);
                self.attr_of("i", 1usize);
                self.attr_of("j", 0usize);
                self.attr_of("d", DType::I64);
                self.condition("m", &[m, n]);
            }
        }
    }

    fn triangle(&mut self, name: &str, m: &Dim, n: &Dim, conditions: bool) {
        let number = |d: &Dim| d.as_const().and_then(|c| usize::try_from(c).ok()).unwrap_or(0);
        let (m, n) = (number(m), number(n));
        let seen = (0..m * n).map(|at| at % n <= at / n);
        let low = self.pick(&[f64::NEG_INFINITY, -1e38]);
        let mask = if conditions {
            Tensor::from_elements(DType::Bool, vec![m, n], seen.map(Element::Bool))
        } else {
            Tensor::from_elements(self.dtype, vec![m, n], seen.map(|seen| Element::Float(if seen { 0.0 } else { low })))
        };
        self.constant(name, mask);
    }

    fn joined_heads(&mut self) {
        let [b, h, m, n, d, e] = self.some();
        let joined = b.clone() * h.clone();
        let mut both = |name: &str, shape: &str, rows: &Dim, columns: &Dim| {
            self.tensor(name, &[b.clone(), h.clone(), rows.clone(), columns.clone()]);
            self.attr_of(shape, vec![joined.clone(), rows.clone(), columns.clone()]);
        };
        both("q", "s", &m, &d);
        both("k", "t", &n, &d);
        both("v", "u", &n, &e);
        both("m", "w", &m, &n);
    }

    fn grouped_heads(&mut self) {
        let [b, g, times, m, n, d, e] = self.some();
        let heads = g.clone() * times.clone();
        self.tensor("q", &[b.clone(), heads.clone(), m.clone(), d.clone()]);
        let mut repeated = |name: &str, wide: &str, joined: &str, rows: &Dim| {
            self.tensor(name, &[b.clone(), g.clone(), Dim::ONE, n.clone(), rows.clone()]);
            self.attr_of(wide, vec![b.clone(), g.clone(), times.clone(), n.clone(), rows.clone()]);
            self.attr_of(joined, vec![b.clone(), heads.clone(), n.clone(), rows.clone()]);
        };
        repeated("k", "wide", "s", &d);
        repeated("v", "broad", "t", &e);
        let head = if self.chance(50) { heads } else { Dim::ONE };
        self.tensor("m", &[b, head, m, n]);
    }

    /// `x` with an even number of channels, the attributes of its halves, and tables.
    fn rotary(&mut self, rule: &str) {
        let (half, [rows]) = (self.positive(), self.some());
        let pairs = rule.starts_with("rotary_pair");
        let (step, second) = if pairs { (2, 1) } else { (1, half) };
        self.tensor("x", &[rows.clone(), Dim::from(2 * half)]);
        ["low", "even"].into_iter().for_each(|name| self.attr_of(name, vec![Dim::from(0), Dim::from(0)]));
        ["high", "odd"].into_iter().for_each(|name| self.attr_of(name, vec![Dim::from(0), Dim::from(second)]));
        self.attr_of("shape", vec![rows.clone(), Dim::from(half)]);
        self.attr_of("step", vec![1i64, step]);
        self.attr_of("axis", if pairs { 2usize } else { 1 });
        self.attr_of("column", vec![rows.clone(), Dim::from(half), Dim::ONE]);
        self.attr_of("whole", vec![rows.clone(), Dim::from(2 * half)]);
        for (name, joined, wide) in [("c", "t", "b"), ("s", "u", "d")] {
            let rows = if self.chance(30) { Dim::ONE } else { rows.clone() };
            match rule {
                "rotary_tables" => self.table(name, half, |row| row.repeat(2)),
                "rotary_pair_tables" => self.table(name, half, |row| row.iter().flat_map(|e| [*e, *e]).collect()),
                "rotary_pair_repeats" => {
                    self.tensor(name, &[rows.clone(), Dim::from(half), Dim::ONE]);
                    self.attr_of(wide, vec![rows.clone(), Dim::from(half), Dim::from(2)]);
                    self.attr_of(joined, vec![rows, Dim::from(2 * half)]);
                }
                _ => self.tensor(name, &[rows, Dim::from(half)]),
            }
        }
    }

    /// A row that has every element twice.
    fn table(&mut self, name: &str, half: usize, twice: impl Fn(&[Element]) -> Vec<Element>) {
        let values: Vec<Element> = (0..half).map(|_| self.element(self.dtype)).collect();
        self.constant(name, Tensor::from_elements(self.dtype, vec![2 * half], twice(&values)));
    }
}
