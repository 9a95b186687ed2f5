//! Evaluates expressions at a point of the loops, or at as many neighbouring points as a vector has lanes.
//!
//! Whatever does not vary over the lanes stays a scalar as long as it can, and what depends on outer loops only is evaluated
//! there. How a load reads follows from its offset: not mentioning the lane axis it is a scalar, with stride 1 a vector load,
//! with anything else a gather; stores likewise. **Invariant.** Lanes that are masked off touch no memory.

use super::emit::Value;
use super::ops::{needs_loop, widened};
use super::quantise::Quantised;
use super::scope::{Facts, Gen, Symbol};
use crate::kernel::{Block, BufferId, Expr, ExprKind, Let, Literal, Store};
use egret_ir::dim::Term;
use egret_ir::{DType, Dim};
use egret_runtime::plan::SLACK;
use inkwell::types::BasicTypeEnum;
use inkwell::values::{InstructionOpcode, IntValue, VectorValue};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

/// Below this a stride times a lane fits 32 bits.
const SMALL_STRIDE: i64 = 1 << 26;

/// Elements up to this far apart are picked out of whole vectors; beyond it a gather is as good.
const MOST_SPACED: i64 = 4;

/// The axis that runs over the lanes of a vector.
#[derive(Clone)]
pub(crate) struct Lane<'c> {
    /// Its symbol; the value is that of lane 0.
    pub(crate) symbol: Arc<str>,
    /// The lanes that count; `None` for all.
    pub(crate) mask: Option<Value<'c>>,
}

/// Where expressions are evaluated.
#[derive(Clone, Default)]
pub(crate) struct Point<'c> {
    /// `None` at a single point.
    pub(crate) lane: Option<Lane<'c>>,
    /// What axes are here: `i` is `i + 3` in the fourth copy of an unrolled loop.
    pub(crate) copies: BTreeMap<Arc<str>, Dim>,
    /// Values that differ between copies or lanes.
    pub(crate) vars: BTreeMap<Arc<str>, Value<'c>>,
    /// Indices read from data that are the same for all lanes and copies.
    shared: BTreeMap<Arc<str>, Dim>,
    /// Indices read from data that vary over the lanes, as i64.
    pub(crate) vectors: BTreeMap<Arc<str>, (Value<'c>, i128)>,
    memo: HashMap<*const ExprKind, Value<'c>>,
}

/// How the lanes access a buffer.
enum Access<'c> {
    /// All the same element.
    Uniform,
    /// Neighbouring elements.
    Contiguous,
    /// Elements a small number apart, or neighbours in reverse.
    Spaced(i64),
    /// `uniform + base + lanes`.
    Lanes { uniform: Dim, base: IntValue<'c>, lanes: VectorValue<'c> },
}

impl<'c> Point<'c> {
    /// A single point.
    pub(crate) fn scalar() -> Point<'c> {
        Point::default()
    }

    /// A vector of points along `symbol`.
    pub(crate) fn vector(symbol: &Arc<str>, mask: Option<Value<'c>>) -> Point<'c> {
        Point { lane: Some(Lane { symbol: symbol.clone(), mask }), ..Point::default() }
    }

    /// The same with `axis` moved on by `by`.
    pub(crate) fn moved(mut self, axis: &Arc<str>, by: impl Into<Dim>) -> Point<'c> {
        let by = by.into();
        if !by.is(0) {
            self.copies.insert(axis.clone(), Dim::symbol(axis.clone()) + by);
        }
        self
    }

    /// The same with `axis` at a fixed number.
    pub(crate) fn fixed(mut self, axis: &Arc<str>, at: impl Into<Dim>) -> Point<'c> {
        self.copies.insert(axis.clone(), at.into());
        self
    }

    /// The same with a value.
    pub(crate) fn with(mut self, var: &Arc<str>, value: Value<'c>) -> Point<'c> {
        self.vars.insert(var.clone(), value);
        self
    }

    /// The same point in another loop: nothing is known there of what was computed here.
    pub(crate) fn renewed(&self) -> Point<'c> {
        Point { memo: HashMap::new(), ..self.clone() }
    }

    /// An offset here.
    pub(crate) fn place(&self, d: &Dim) -> Dim {
        if self.copies.is_empty() && self.shared.is_empty() {
            return d.clone();
        }
        d.substitute(&|name| self.copies.get(name).or_else(|| self.shared.get(name)).cloned())
    }

    /// Whether an index differs between lanes.
    pub(crate) fn varies(&self, d: &Dim) -> bool {
        let lane = self.lane.as_ref().is_some_and(|l| d.mentions(&l.symbol));
        lane || self.vectors.keys().any(|v| d.mentions(v))
    }

    /// Whether something of this name is not the same everywhere around the point.
    fn owns(&self, name: &str) -> bool {
        let lane = self.lane.as_ref().is_some_and(|l| &*l.symbol == name);
        lane || self.copies.contains_key(name) || self.vars.contains_key(name) || self.vectors.contains_key(name)
    }

    /// The view of what is the same everywhere around the point.
    fn common(&self) -> Point<'c> {
        Point { shared: self.shared.clone(), ..Point::default() }
    }
}

impl<'c> Gen<'_, 'c> {
    /// Performs a block at several points: first everything is read and computed, then everything is written.
    pub(crate) fn block(&mut self, block: &Block, mut points: Vec<Point<'c>>) {
        points.iter_mut().for_each(|p| self.lets(p, &block.lets));
        self.stores(block, points);
    }

    /// Performs the stores of a block whose indices are bound.
    pub(crate) fn stores(&mut self, block: &Block, mut points: Vec<Point<'c>>) {
        let mut results = vec![];
        for point in &mut points {
            results.push(block.stores.iter().map(|s| self.stored_value(point, s)).collect::<Vec<Value>>());
        }
        for (point, values) in points.iter().zip(results) {
            for (store, value) in block.stores.iter().zip(values) {
                self.write(point, store.buffer, &store.offset, value);
            }
        }
    }

    /// What a store writes, as memory holds it.
    pub(crate) fn stored_value(&mut self, point: &mut Point<'c>, store: &Store) -> Value<'c> {
        let dtype = self.kernel.buffers[store.buffer.0].dtype;
        match &*store.value.kind {
            // What is only moved is not converted, and what is converted is rounded once.
            ExprKind::Load(from, offset) if is_narrow_float(dtype) => self.moved(point, *from, offset),
            ExprKind::Cast(x) if is_narrow_float(dtype) && x.dtype == DType::F32 => {
                let value = self.eval(point, x);
                self.narrowed(value, dtype)
            }
            _ => {
                let value = self.eval(point, &store.value);
                self.narrowed(value, dtype)
            }
        }
    }

    /// An element, or one per lane, as memory holds it. What is not read in order may have been read already.
    fn moved(&mut self, point: &mut Point<'c>, buffer: BufferId, offset: &Dim) -> Value<'c> {
        let at = point.place(offset);
        match self.access(point, &at) {
            access @ (Access::Uniform | Access::Contiguous) => self.read_lanes(point, buffer, &at, access),
            Access::Spaced(_) | Access::Lanes { .. } => {
                let value = self.read(point, buffer, offset);
                self.narrowed(value, self.kernel.buffers[buffer.0].dtype)
            }
        }
    }

    /// Reads the indices of a block.
    pub(crate) fn lets(&mut self, point: &mut Point<'c>, lets: &[Let]) {
        for l in lets {
            let extent = point.place(&l.extent);
            let range = (0, (self.range(&extent).1 - 1).max(0));
            let common = self.placement(point, &l.value);
            let known = common.and_then(|level| self.levels[level].lets.get(&Arc::as_ptr(&l.value.kind)).cloned());
            if let Some(name) = known.filter(|_| point.shared.is_empty()) {
                point.shared.insert(l.name.clone(), Dim::symbol(name));
                continue;
            }
            let level = common.unwrap_or(self.depth()).max(self.level_of(&extent));
            let value = match common {
                Some(_) => self.at_level(level, |g| {
                    let value = g.eval(&mut point.common(), &l.value);
                    g.within_extent(value, &extent)
                }),
                None => {
                    let value = self.eval(point, &l.value);
                    self.within_extent(value, &extent)
                }
            };
            if value.is_vector_value() {
                point.vectors.insert(l.name.clone(), (value, range.1));
                continue;
            }
            let name = self.fresh(&l.name);
            self.levels[level].symbols.insert(name.clone(), Symbol { value: value.into_int_value(), range });
            match common {
                Some(_) => {
                    self.levels[level].lets.insert(Arc::as_ptr(&l.value.kind), name.clone());
                    point.shared.insert(l.name.clone(), Dim::symbol(name));
                }
                None => {
                    point.copies.insert(l.name.clone(), Dim::symbol(name));
                }
            }
        }
    }

    /// `value` held within `0..extent`.
    fn within_extent(&mut self, value: Value<'c>, extent: &Dim) -> Value<'c> {
        let last = self.index(&(extent.clone() - 1));
        let held = self.e.imin(value, last.into(), true);
        self.e.imax(held, self.e.i64(0).into(), true)
    }

    /// The value of an expression; a scalar if it is the same for all lanes.
    pub(crate) fn eval(&mut self, point: &mut Point<'c>, expr: &Expr) -> Value<'c> {
        if let ExprKind::Const(literal) = &*expr.kind {
            return self.literal(*literal, expr.dtype);
        }
        let key = Arc::as_ptr(&expr.kind);
        if let Some(&known) = point.memo.get(&key) {
            return known;
        }
        let value = match self.placement(point, expr) {
            Some(level) => self.common_value(level, point, expr),
            None => self.node(point, expr),
        };
        point.memo.insert(key, value);
        value
    }

    /// A value that is the same for all lanes and copies, at the level where it is known.
    fn common_value(&mut self, level: usize, point: &Point<'c>, expr: &Expr) -> Value<'c> {
        let key = Arc::as_ptr(&expr.kind);
        self.at_level(level, |g| {
            if let Some(&known) = g.top().exprs.get(&key) {
                return known;
            }
            let value = g.node(&mut point.common(), expr);
            if point.shared.is_empty() {
                g.top().exprs.insert(key, value);
            }
            value
        })
    }

    /// The level at which an expression can be evaluated once for all lanes and copies, if it can.
    fn placement(&mut self, point: &Point<'c>, expr: &Expr) -> Option<usize> {
        let facts = self.facts(expr);
        if facts.pinned || facts.names.iter().any(|n| point.owns(n)) {
            return None;
        }
        let deepest = facts.names.iter().map(|name| match point.shared.get(name) {
            Some(index) => self.level_of(index),
            None => self.levels.iter().rposition(|l| l.symbols.contains_key(name) || l.vars.contains_key(name)).unwrap_or(0),
        });
        let level = deepest.max().unwrap_or(0);
        Some(if facts.loads { level.max(self.load_floor()) } else { level })
    }

    fn facts(&mut self, expr: &Expr) -> Rc<Facts> {
        let key = Arc::as_ptr(&expr.kind);
        if let Some(known) = self.facts.get(&key) {
            return known.clone();
        }
        let mut facts = Facts { names: vec![], loads: false, pinned: needs_loop(expr) };
        match &*expr.kind {
            ExprKind::Load(buffer, d) => {
                facts.names.extend(d.symbols());
                facts.loads = true;
                facts.pinned = self.kernel.buffers[buffer.0].written;
            }
            ExprKind::Index(d) => facts.names.extend(d.symbols()),
            ExprKind::Var(name) => facts.names.push(name.clone()),
            _ => {}
        }
        for operand in expr.operands() {
            let inner = self.facts(operand);
            facts.names.extend(inner.names.iter().cloned());
            facts.loads |= inner.loads;
            facts.pinned |= inner.pinned;
        }
        facts.names.sort();
        facts.names.dedup();
        let facts = Rc::new(facts);
        self.facts.insert(key, facts.clone());
        facts
    }

    /// One node of an expression.
    fn node(&mut self, point: &mut Point<'c>, expr: &Expr) -> Value<'c> {
        match &*expr.kind {
            ExprKind::Const(literal) => self.literal(*literal, expr.dtype),
            ExprKind::Load(buffer, offset) => self.read(point, *buffer, offset),
            ExprKind::Index(d) => self.index_value(point, d),
            ExprKind::Var(name) => self.var(point, name),
            ExprKind::Un(op, x) => {
                let value = self.eval(point, x);
                self.un(*op, x.dtype, value)
            }
            ExprKind::Bin(op, x, y) => {
                let (left, right) = (self.eval(point, x), self.eval(point, y));
                self.bin(*op, x.dtype, left, right, y)
            }
            ExprKind::Select(c, x, y) => {
                let (c, x, y) = (self.eval(point, c), self.eval(point, x), self.eval(point, y));
                self.e.select(c, x, y)
            }
            ExprKind::Bits(x) => {
                let value = self.eval(point, x);
                let stored = self.narrowed(value, x.dtype);
                let stored = self.e.bitcast(stored, self.e.memory_type(expr.dtype));
                widened(&self.e, stored, expr.dtype)
            }
            ExprKind::Cast(x) => {
                if let Some(quantised) = Quantised::of(x, expr.dtype) {
                    return self.quantised(point, &quantised, expr.dtype);
                }
                let value = self.eval(point, x);
                // Narrow floats are held wide: they are rounded where they leave an expression of their type.
                let value = if matches!(&*x.kind, ExprKind::Load(..)) { value } else { self.rounded(value, x.dtype) };
                self.cast(value, x.dtype, expr.dtype)
            }
        }
    }

    fn var(&mut self, point: &Point<'c>, name: &Arc<str>) -> Value<'c> {
        let bound = point.vars.get(name).copied().or_else(|| self.levels.iter().rev().find_map(|l| l.vars.get(name).copied()));
        bound.unwrap_or_else(|| panic!("`{name}` is used before it is computed"))
    }

    fn literal(&mut self, literal: Literal, dtype: DType) -> Value<'c> {
        let ty = self.e.register_type(dtype);
        match (literal, ty) {
            (Literal::Float(bits), BasicTypeEnum::FloatType(_)) => self.e.float_of(ty, f64::from_bits(bits)),
            (Literal::Int(v), BasicTypeEnum::FloatType(_)) => self.e.float_of(ty, v as f64),
            (Literal::Float(bits), _) => self.e.int_of(ty, f64::from_bits(bits) as i64),
            (Literal::Int(v), _) => self.e.int_of(ty, v),
        }
    }

    // ---- memory

    /// Loads an element, or one per lane, into registers of the element's type.
    pub(crate) fn read(&mut self, point: &mut Point<'c>, buffer: BufferId, offset: &Dim) -> Value<'c> {
        let at = point.place(offset);
        let (dtype, written) = (self.kernel.buffers[buffer.0].dtype, self.kernel.buffers[buffer.0].written);
        if let Some(raw) = self.read_picked(point, buffer, &at) {
            return widened(&self.e, raw, dtype);
        }
        let access = self.access(point, &at);
        let uniform = matches!(access, Access::Uniform);
        let masked = point.lane.as_ref().is_some_and(|l| l.mask.is_some()) && !uniform;
        let key = (buffer, at.clone(), masked);
        if let Some(&known) = self.top().loads.get(&key) {
            return known;
        }
        let raw = self.read_lanes(point, buffer, &at, access);
        let value = widened(&self.e, raw, dtype);
        let lasting = !written && point.vectors.keys().all(|v| !at.mentions(v));
        if lasting {
            self.top().loads.insert(key, value);
        }
        value
    }

    fn read_lanes(&mut self, point: &Point<'c>, buffer: BufferId, at: &Dim, access: Access<'c>) -> Value<'c> {
        let dtype = self.kernel.buffers[buffer.0].dtype;
        let (element, size) = (self.e.memory_type(dtype), dtype.size());
        let vector: BasicTypeEnum = self.e.vector_type(element, self.e.lanes).into();
        let mask = point.lane.as_ref().and_then(|l| l.mask);
        match (access, mask) {
            (Access::Uniform, _) => {
                let pointer = self.pointer(buffer, at);
                self.e.load(element, pointer, self.alignment(buffer, at))
            }
            (Access::Contiguous, None) => {
                let pointer = self.pointer(buffer, at);
                self.e.load(vector, pointer, size)
            }
            (Access::Contiguous, Some(mask)) => {
                let pointer = self.pointer(buffer, at);
                self.e.masked_load(vector, pointer, mask, size)
            }
            (Access::Spaced(apart), None) => self.read_spaced(buffer, at, apart),
            (Access::Spaced(apart), Some(mask)) => {
                let (pointer, lanes) = (self.pointer(buffer, at), self.e.iota(32, apart));
                self.e.gather(element, pointer, lanes, size, mask)
            }
            (Access::Lanes { uniform, base, lanes }, mask) => {
                let pointer = self.pointer(buffer, &uniform);
                let pointer = self.e.offset(pointer, base, size);
                let mask = mask.unwrap_or_else(|| self.all_lanes());
                self.e.gather(element, pointer, lanes, size, mask)
            }
        }
    }

    /// Elements of one vector that the lanes take in an order of their own, such as each of them four times: that vector, shuffled. It ends
    /// at most its length behind the last of them, in the slack behind the buffer.
    fn read_picked(&mut self, point: &Point<'c>, buffer: BufferId, at: &Dim) -> Option<Value<'c>> {
        let dtype = self.kernel.buffers[buffer.0].dtype;
        let (lanes, lane) = (self.e.lanes, point.lane.as_ref().filter(|l| l.mask.is_none())?.symbol.clone());
        let is_read = dtype.size() * lanes <= SLACK && at.mentions(&lane) && at.linear_in(&lane).is_none() && point.vectors.is_empty();
        let start = self.symbol(&lane).value.get_sign_extended_constant().filter(|_| is_read)?;
        let lane_at = |l: usize| at.substitute(&|name| (name == &*lane).then(|| Dim::from(start + l as i64)));
        let first = lane_at(0);
        let picks = (0..lanes).map(|l| usize::try_from((lane_at(l) - first.clone()).as_const()?).ok().filter(|&pick| pick < lanes));
        let picks: Vec<usize> = picks.collect::<Option<_>>()?;
        let vector = self.e.vector_type(self.e.memory_type(dtype), lanes).into();
        let pointer = self.pointer(buffer, &first);
        let all = self.e.load(vector, pointer, dtype.size());
        Some(self.e.shuffle(all, all, &picks))
    }

    /// Elements a small number apart: whole vectors, of which the lanes are picked. They end at most 3 elements behind the
    /// last one, in the slack behind the buffer.
    fn read_spaced(&mut self, buffer: BufferId, at: &Dim, apart: i64) -> Value<'c> {
        let dtype = self.kernel.buffers[buffer.0].dtype;
        let (lanes, size) = (self.e.lanes, dtype.size());
        let vector = self.e.vector_type(self.e.memory_type(dtype), lanes).into();
        if apart < 0 {
            let first = self.pointer(buffer, &(at.clone() - (lanes as i64 - 1)));
            let forward = self.e.load(vector, first, size);
            return self.e.shuffle(forward, forward, &(0..lanes).rev().collect::<Vec<_>>());
        }
        let (pointer, apart) = (self.pointer(buffer, at), apart as usize);
        let parts = (0..apart).map(|i| self.e.load(vector, self.e.displaced(pointer, (i * lanes * size) as i64), size));
        let parts: Vec<Value> = parts.collect();
        // Lane l is element l*apart; each step takes from the next part what lies in it.
        let mut picked = parts[0];
        for (i, &part) in parts.iter().enumerate().skip(1) {
            let lane = |l: usize| match (l * apart) / lanes {
                before if before < i => {
                    if i == 1 {
                        l * apart
                    } else {
                        l
                    }
                }
                here if here == i => lanes + l * apart - i * lanes,
                _ => l,
            };
            picked = self.e.shuffle(picked, part, &(0..lanes).map(lane).collect::<Vec<_>>());
        }
        picked
    }

    /// Stores an element, or one per lane; the value has the memory's type.
    pub(crate) fn write(&mut self, point: &Point<'c>, buffer: BufferId, offset: &Dim, value: Value<'c>) {
        let at = point.place(offset);
        let size = self.kernel.buffers[buffer.0].dtype.size();
        let mask = point.lane.as_ref().and_then(|l| l.mask);
        match (self.access(point, &at), mask) {
            (Access::Uniform, _) => {
                // With lanes: the axis has one point, so lane 0 is all there is.
                let value = if value.is_vector_value() { self.e.extract(value, 0) } else { value };
                let pointer = self.pointer(buffer, &at);
                self.e.store(value, pointer, self.alignment(buffer, &at));
            }
            (Access::Contiguous, None) => {
                let (value, pointer) = (self.e.splat(value), self.pointer(buffer, &at));
                self.e.store(value, pointer, size);
            }
            (Access::Contiguous, Some(mask)) => {
                let (value, pointer) = (self.e.splat(value), self.pointer(buffer, &at));
                self.e.masked_store(value, pointer, mask, size);
            }
            (Access::Spaced(apart), mask) => {
                let (value, pointer) = (self.e.splat(value), self.pointer(buffer, &at));
                let mask = mask.unwrap_or_else(|| self.all_lanes());
                self.e.scatter(value, pointer, self.e.iota(32, apart), size, mask);
            }
            (Access::Lanes { uniform, base, lanes }, mask) => {
                let (value, pointer) = (self.e.splat(value), self.pointer(buffer, &uniform));
                let pointer = self.e.offset(pointer, base, size);
                let mask = mask.unwrap_or_else(|| self.all_lanes());
                self.e.scatter(value, pointer, lanes, size, mask);
            }
        }
    }

    pub(crate) fn all_lanes(&self) -> Value<'c> {
        self.e.splat(self.e.cx.bool_type().const_all_ones().into())
    }

    /// The lanes `0..count`.
    pub(crate) fn first_lanes(&self, count: Value<'c>) -> Value<'c> {
        // Counts are compared in 32 bits: one compare of one register. A number that is known gives a mask that is.
        let most = self.e.lanes as i64;
        let known = count.into_int_value().get_sign_extended_constant();
        let count = known.map_or_else(|| self.e.imin(count, self.e.int(count, most), true), |n| self.e.int(count, n.min(most)));
        let count = self.e.convert(InstructionOpcode::Trunc, count, self.e.int_type(32));
        self.e.icmp(inkwell::IntPredicate::SLT, self.e.iota(32, 1).into(), count)
    }

    fn access(&mut self, point: &Point<'c>, at: &Dim) -> Access<'c> {
        if !point.varies(at) {
            return Access::Uniform;
        }
        let lane = point.lane.as_ref().expect("only lanes vary").symbol.clone();
        match at.linear_in(&lane) {
            Some((stride, rest)) if !point.vectors.keys().any(|v| stride.mentions(v) || rest.mentions(v)) => match stride.as_const() {
                Some(1) => Access::Contiguous,
                Some(s @ (-1 | 2..=MOST_SPACED)) => Access::Spaced(s),
                Some(s) if s.abs() < SMALL_STRIDE => Access::Lanes { uniform: at.clone(), base: self.e.i64(0), lanes: self.e.iota(32, s) },
                _ => {
                    let stride = self.index(&stride);
                    let lanes = self.e.mul(self.e.iota(64, 1).into(), stride.into()).into_vector_value();
                    Access::Lanes { uniform: at.clone(), base: self.e.i64(0), lanes }
                }
            },
            _ => {
                let (varying, base): (Vec<Term>, Vec<Term>) =
                    at.terms().iter().cloned().partition(|t| point.varies(&Dim::from_terms(vec![t.clone()])));
                let index = self.lane_index(point, &Dim::from_terms(varying));
                Access::Lanes { uniform: Dim::from_terms(base), base: index.base, lanes: index.lanes.into_vector_value() }
            }
        }
    }

    // ---- indices that differ between lanes

    /// An index as a value (i64).
    fn index_value(&mut self, point: &Point<'c>, d: &Dim) -> Value<'c> {
        let at = point.place(d);
        if !point.varies(&at) {
            return self.index(&at).into();
        }
        let lane = point.lane.as_ref().expect("only lanes vary").symbol.clone();
        match at.linear_in(&lane).and_then(|(stride, rest)| stride.as_const().filter(|_| !point.varies(&rest))) {
            Some(stride) => {
                let first = self.index(&at);
                self.e.add(first.into(), self.e.iota(64, stride).into())
            }
            None => {
                let lanes = self.lane_index(point, &at);
                self.whole_lanes(lanes)
            }
        }
    }
}

/// Whether memory holds half of what a register does.
fn is_narrow_float(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}
