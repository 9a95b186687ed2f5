//! Loops, and what is known inside them.
//!
//! A [`Gen`] emits one kernel. It keeps a stack of levels: the function's entry, then one per loop or branch that is open.
//! Whatever depends only on outer levels (an address, a scale factor, a division of an index) is emitted there, just before
//! the jump into the next level, and remembered; so loop-invariant code is never inside its loop and is emitted once.
//! **Invariant.** A remembered value dominates everything emitted after it while its level is open.
//!
//! ```text
//! level 0   entry:   n = load sizes[0]                     sizes, base addresses
//! level 1   head1:   i0 = phi ...; p = x + 4*128*i0        <- emitted here although asked for at level 2
//! level 2   head2:   i1 = phi ...; load <16 x float> p[i1]
//! ```

use super::emit::{Emit, Value};
use crate::kernel::{Axis, BufferId, ExprKind, Kernel};
use egret_ir::Dim;
use inkwell::IntPredicate;
use inkwell::basic_block::BasicBlock;
use inkwell::types::BasicType;
use inkwell::values::{BasicValue, IntValue, PointerValue};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// The smallest and the largest number that an index can be.
pub(crate) type Range = (i128, i128);

/// No index is larger: offsets are in elements of buffers that fit an address space.
pub(crate) const HUGE: i128 = 1 << 62;

/// A symbol of the current loops.
#[derive(Clone, Copy)]
pub(crate) struct Symbol<'c> {
    pub(crate) value: IntValue<'c>,
    pub(crate) range: Range,
}

/// What is known while a loop or branch is open.
#[derive(Default)]
pub(crate) struct Level<'c> {
    /// The block whose last instruction enters the next level, while that is open.
    leave: Option<BasicBlock<'c>>,
    /// Whether the level may be entered for no point at all, so that loads must not be moved out of it.
    maybe_empty: bool,
    pub(crate) symbols: HashMap<Arc<str>, Symbol<'c>>,
    pub(crate) vars: HashMap<Arc<str>, Value<'c>>,
    pub(crate) dims: HashMap<Dim, IntValue<'c>>,
    pub(crate) pointers: HashMap<(BufferId, Dim), PointerValue<'c>>,
    pub(crate) exprs: HashMap<*const ExprKind, Value<'c>>,
    pub(crate) loads: HashMap<(BufferId, Dim, bool), Value<'c>>,
    pub(crate) lets: HashMap<*const ExprKind, Arc<str>>,
}

/// What an expression depends on.
pub(crate) struct Facts {
    pub(crate) names: Vec<Arc<str>>,
    pub(crate) loads: bool,
    /// Whether it reads what the kernel writes, so that it must stay where it stands.
    pub(crate) pinned: bool,
}

/// Emits one kernel.
pub(crate) struct Gen<'a, 'c> {
    pub(crate) e: Emit<'c>,
    pub(crate) kernel: &'a Kernel,
    pub(crate) bases: Vec<PointerValue<'c>>,
    pub(crate) levels: Vec<Level<'c>>,
    pub(crate) facts: HashMap<*const ExprKind, Rc<Facts>>,
    /// The arguments `part` and `parts`.
    pub(crate) part: IntValue<'c>,
    pub(crate) parts: IntValue<'c>,
    pub(crate) vregs: usize,
    /// The working memory of this part, if the kernel has some.
    pub(crate) scratch: Option<PointerValue<'c>>,
    /// Where the tiles of a contraction are put, for their epilogue or on a GPU for all threads of a block, and its bytes.
    pub(crate) tile_scratch: Option<(PointerValue<'c>, usize)>,
    /// What symbols are known to be multiples of, where that makes an address more aligned than its elements.
    pub(crate) multiples: HashMap<Arc<str>, i64>,
    fresh: usize,
}

/// What a kernel is called with.
pub(crate) struct Arguments<'c> {
    /// The address of each buffer.
    pub(crate) bases: Vec<PointerValue<'c>>,
    /// The value of each of [`Kernel::sizes`].
    pub(crate) sizes: Vec<IntValue<'c>>,
    /// Which part of the kernel to do.
    pub(crate) part: IntValue<'c>,
    /// Of how many.
    pub(crate) parts: IntValue<'c>,
}

/// How a loop runs.
pub(crate) struct Run<'c> {
    pub(crate) start: IntValue<'c>,
    pub(crate) end: IntValue<'c>,
    pub(crate) step: i64,
    /// Whether it runs at least once for certain.
    pub(crate) certain: bool,
    pub(crate) range: Range,
}

impl<'a, 'c> Gen<'a, 'c> {
    /// Starts a kernel: loads its pointers and sizes.
    pub(crate) fn new(e: Emit<'c>, kernel: &'a Kernel, vregs: usize) -> Gen<'a, 'c> {
        let argument = |i| e.function.get_nth_param(i).expect("a kernel has four parameters");
        let (table, sizes) = (argument(0).into_pointer_value(), argument(1).into_pointer_value());
        let (part, parts) = (argument(2).into_int_value(), argument(3).into_int_value());
        let bases =
            (0..kernel.buffers.len() as i64).map(|i| e.load(e.ptr_type(), e.displaced(table, 8 * i), 8).into_pointer_value()).collect();
        let load = |i: usize| e.load(e.int_type(64), e.displaced(sizes, 8 * i as i64), 8).into_int_value();
        let sizes = (0..kernel.sizes().len()).map(load).collect();
        let mut made = Gen::on(e, kernel, vregs, Arguments { bases, sizes, part, parts });
        made.scratch = made.part_scratch(table);
        made
    }

    /// Starts a kernel whose arguments are at hand.
    pub(crate) fn on(e: Emit<'c>, kernel: &'a Kernel, vregs: usize, arguments: Arguments<'c>) -> Gen<'a, 'c> {
        let Arguments { bases, sizes, part, parts } = arguments;
        let symbols = kernel.sizes().into_iter().zip(sizes).map(|(name, value)| (name, Symbol { value, range: (0, HUGE) }));
        let entry = Level { symbols: symbols.collect(), ..Level::default() };
        Gen {
            e,
            kernel,
            bases,
            levels: vec![entry],
            facts: HashMap::new(),
            part,
            parts,
            vregs,
            scratch: None,
            tile_scratch: None,
            multiples: HashMap::new(),
            fresh: 0,
        }
    }

    /// The address of this part's working memory, of which the table has that of part 0 behind the buffers.
    fn part_scratch(&mut self, table: PointerValue<'c>) -> Option<PointerValue<'c>> {
        let bytes = self.kernel.scratch(self.e.lanes);
        if bytes.is(0) {
            return None;
        }
        let bytes = self.index(&bytes);
        let first = self.e.load(self.e.ptr_type(), self.e.displaced(table, 8 * self.kernel.buffers.len() as i64), 8);
        Some(self.e.offset(first.into_pointer_value(), self.e.index_mul(self.part, bytes), 1))
    }

    pub(crate) fn top(&mut self) -> &mut Level<'c> {
        self.levels.last_mut().expect("the entry level is always open")
    }

    pub(crate) fn depth(&self) -> usize {
        self.levels.len() - 1
    }

    /// A name that no kernel uses.
    pub(crate) fn fresh(&mut self, what: &str) -> Arc<str> {
        self.fresh += 1;
        format!("{what}'{}", self.fresh).into()
    }

    /// The level that binds a symbol.
    pub(crate) fn level_of_symbol(&self, name: &str) -> Option<usize> {
        self.levels.iter().rposition(|l| l.symbols.contains_key(name))
    }

    pub(crate) fn symbol(&self, name: &str) -> Symbol<'c> {
        let level = self.level_of_symbol(name).unwrap_or_else(|| panic!("`{name}` is not bound here"));
        self.levels[level].symbols[name]
    }

    /// The deepest level that may be empty: loads are not moved above it.
    pub(crate) fn load_floor(&self) -> usize {
        self.levels.iter().rposition(|l| l.maybe_empty).unwrap_or(0)
    }

    /// Emits at an outer level, before the jump into the one above it.
    pub(crate) fn at_level<R>(&mut self, level: usize, f: impl FnOnce(&mut Self) -> R) -> R {
        if level == self.depth() {
            return f(self);
        }
        let here = self.e.block();
        let inner = self.levels.split_off(level + 1);
        self.reposition(here);
        let result = f(self);
        self.levels.extend(inner);
        self.reposition(here);
        result
    }

    /// Goes to where the innermost level of the stack is being filled.
    fn reposition(&mut self, here: BasicBlock<'c>) {
        match self.top().leave {
            Some(block) => self.e.builder.position_before(&block.get_terminator().expect("an open level ends with a jump")),
            None => self.e.enter(here),
        }
    }

    /// Opens a level that `from` jumps into, fills it, closes it.
    fn within<R>(&mut self, from: BasicBlock<'c>, level: Level<'c>, body: impl FnOnce(&mut Self) -> R) -> R {
        self.top().leave = Some(from);
        self.levels.push(level);
        let result = body(self);
        self.levels.pop();
        self.top().leave = None;
        result
    }

    /// `for name in start..end step by`, with values that go around. In `body` the values are those of the iteration; it
    /// returns those of the next. The result is what they are at the end.
    pub(crate) fn repeat(
        &mut self,
        name: &Arc<str>,
        run: Run<'c>,
        carried: Vec<Value<'c>>,
        body: impl FnOnce(&mut Self, Vec<Value<'c>>) -> Vec<Value<'c>>,
    ) -> Vec<Value<'c>> {
        let bounds = run.start.get_sign_extended_constant().zip(run.end.get_sign_extended_constant());
        if bounds.is_some_and(|(start, end)| start >= end) {
            return carried;
        }
        if bounds.is_some_and(|(start, end)| start + run.step >= end) {
            return self.once(name, run.start, run.range, |g| body(g, carried));
        }
        let certain = run.certain || bounds.is_some();
        let before = self.e.block();
        let (head, exit) = (self.e.new_block("loop"), self.e.new_block("after"));
        match certain {
            true => self.e.jump(head),
            false => {
                let c = self.e.icmp(IntPredicate::SLT, run.start.into(), run.end.into()).into_int_value();
                self.e.branch(c, head, exit);
            }
        }
        self.e.enter(head);
        let counter = self.e.phi(self.e.cx.i64_type());
        let phis: Vec<_> = carried.iter().map(|v| self.e.phi(v.get_type())).collect();
        let index = counter.as_basic_value().into_int_value();
        let symbols = HashMap::from([(name.clone(), Symbol { value: index, range: run.range })]);
        let level = Level { symbols, maybe_empty: !certain, ..Level::default() };
        let next = self.within(before, level, |g| body(g, phis.iter().map(|p| p.as_basic_value()).collect()));
        let latch = self.e.block();
        let following = self.e.index_add(index, self.e.i64(run.step));
        let again = self.e.icmp(IntPredicate::SLT, following.into(), run.end.into()).into_int_value();
        self.e.branch(again, head, exit);
        counter.add_incoming(&[(&run.start, before), (&following, latch)]);
        for ((phi, first), next) in phis.iter().zip(&carried).zip(&next) {
            phi.add_incoming(&[(first as &dyn BasicValue, before), (next, latch)]);
        }
        self.e.enter(exit);
        match certain {
            true => next,
            false => carried.iter().zip(&next).map(|(first, last)| self.joined_at(exit, &[(*first, before), (*last, latch)])).collect(),
        }
    }

    /// The value that comes with the way taken into the current block.
    fn joined_at(&self, _at: BasicBlock<'c>, ways: &[(Value<'c>, BasicBlock<'c>)]) -> Value<'c> {
        let phi = self.e.phi(ways[0].0.get_type().as_basic_type_enum());
        for (value, from) in ways {
            phi.add_incoming(&[(value as &dyn BasicValue, *from)]);
        }
        phi.as_basic_value()
    }

    /// A loop that runs exactly once.
    pub(crate) fn once<R>(&mut self, name: &Arc<str>, value: IntValue<'c>, range: Range, body: impl FnOnce(&mut Self) -> R) -> R {
        let (before, inside) = (self.e.block(), self.e.new_block("once"));
        self.e.jump(inside);
        self.e.enter(inside);
        let symbols = HashMap::from([(name.clone(), Symbol { value, range })]);
        self.within(before, Level { symbols, ..Level::default() }, body)
    }

    /// `if c { body }`, without results.
    pub(crate) fn when(&mut self, c: IntValue<'c>, body: impl FnOnce(&mut Self)) {
        match c.get_zero_extended_constant() {
            Some(0) => return,
            Some(_) => return body(self),
            None => {}
        }
        let (before, inside, exit) = (self.e.block(), self.e.new_block("when"), self.e.new_block("after"));
        self.e.branch(c, inside, exit);
        self.e.enter(inside);
        self.within(before, Level { maybe_empty: true, ..Level::default() }, body);
        self.e.jump(exit);
        self.e.enter(exit);
    }

    /// A loop over a whole axis.
    pub(crate) fn over(&mut self, axis: &Axis, certain: bool, body: impl FnOnce(&mut Self)) {
        let run = self.whole(axis, certain);
        self.repeat(&axis.name, run, vec![], |g, _| {
            body(g);
            vec![]
        });
    }

    /// All of an axis, one by one.
    pub(crate) fn whole(&mut self, axis: &Axis, certain: bool) -> Run<'c> {
        let end = self.index(&axis.extent);
        let range = self.axis_range(axis);
        Run { start: self.e.i64(0), end, step: 1, certain, range }
    }

    pub(crate) fn axis_range(&self, axis: &Axis) -> Range {
        (0, (self.range(&axis.extent).1 - 1).max(0))
    }

    /// A nest of loops over whole axes, outermost first.
    pub(crate) fn nest(&mut self, axes: &[Axis], certain: bool, body: impl FnOnce(&mut Self)) {
        match axes {
            [] => body(self),
            [first, rest @ ..] => self.over(first, certain, |g| g.nest(rest, certain, body)),
        }
    }

    /// Runs `body` where no extent is zero. Numbers are decided here, symbols at run time.
    pub(crate) fn unless_empty(&mut self, extents: &[Dim], body: impl FnOnce(&mut Self)) {
        if extents.iter().any(|d| d.as_const().is_some_and(|c| c <= 0)) {
            return;
        }
        let unknown: Vec<IntValue> = extents.iter().filter(|d| d.as_const().is_none()).map(|d| self.index(d)).collect();
        let zero = self.e.i64(0);
        let tests = unknown.into_iter().map(|v| self.e.icmp(IntPredicate::SGT, v.into(), zero.into()));
        match tests.reduce(|a, b| self.e.and(a, b)) {
            None => body(self),
            Some(test) => self.when(test.into_int_value(), body),
        }
    }
}
