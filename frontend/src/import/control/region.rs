//! Bodies that become regions of the graph: branches on data, and loops.
//!
//! What a loop carries may change its extents from step to step. Its body is imported for the types that it starts with, and again with
//! a symbol for every extent that came out another, until it takes what it gives:
//!
//! ```text
//! k: f32[1, P]      { Concat(k, x) -> f32[1, P + 1] }         the extent changes
//! k: f32[1, L]      { Concat(k, x) -> f32[1, L + 1] }         whatever L is, so it is left to run time
//! ```

use super::{Holder, Importer, Outputs, broken, whole};
use crate::build::Region;
use crate::error::Code;
use crate::scope::{Binding, Operand};
use crate::site::{Stop, fault, malformed};
use egret_ir::assume::{self, Relation};
use egret_ir::{DType, Dim, Graph, Kind, Op, TensorType, ValueId};
use onnx_protobuf::GraphProto;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::sync::Arc;

/// Both branches are computed where each has at most so many nodes and none of them is worth a call of its own: that takes less time than
/// ending a stage and beginning another.
const LIGHT_NODES: usize = 32;

/// What is known of a loop before its body is imported.
pub(super) struct Steps<'m> {
    /// The most steps: i64[].
    pub(super) count: ValueId,
    /// The same where it is known, not negative.
    pub(super) trips: Option<Dim>,
    /// Whether there is a first step: bool[].
    pub(super) going: ValueId,
    pub(super) carried: Vec<ValueId>,
    /// What the body calls them.
    pub(super) names: Vec<&'m str>,
}

/// What the body of a loop gives.
pub(super) struct Body {
    /// Whether there is another step; always, if nothing.
    pub(super) going: Option<ValueId>,
    pub(super) carried: Vec<ValueId>,
    pub(super) rows: Vec<ValueId>,
}

/// Imports the body of a loop into the region that is open, for the number of the step and what is carried.
type Import<'i, 'm> = &'i mut dyn FnMut(&mut Importer<'m>, ValueId, &[ValueId]) -> Result<Option<Body>, Stop>;

impl<'m> Importer<'m> {
    // ---- branches

    /// Imports both branches; each result is that of the branch that the condition chooses.
    pub(super) fn branch_on_data(&mut self, holder: &Holder<'_, 'm>, condition: ValueId) -> Result<Vec<Binding<'m>>, Stop> {
        self.restart(holder);
        let condition = self.site(holder).reshape(condition, [])?;
        let Some((then, ones)) = self.branch_region(holder, "then_branch", &[condition])? else { return Ok(broken(holder)) };
        let Some((or, others)) = self.branch_region(holder, "else_branch", then.captured())? else { return Ok(broken(holder)) };
        if let Some((one, other)) = ones.iter().zip(&others).find(|(one, other)| !one.is_like(other)) {
            return Err(self.undecided(condition, one, other));
        }
        self.restart(holder);
        let mut results = self.branched(condition, then, or)?.into_iter();
        let mut outputs = ones.iter().map(|one| one.map(|inner| results.next().unwrap_or(inner)));
        let binding = |wanted: &bool| Binding::Is(if *wanted { outputs.next() } else { None }.unwrap_or(Operand::Nothing));
        Ok(holder.wanted.iter().map(binding).collect())
    }

    /// The fault of branches that give different kinds of values, or values of different kinds.
    fn undecided(&self, condition: ValueId, one: &dyn Display, other: &dyn Display) -> Stop {
        let name = &self.build.graph.value(condition).name;
        let message =
            format!("the condition `{name}` of `If` must be known when the model is compiled: its branches give {one} and {other}");
        self.build.unknown(Code::ControlFlow, message, condition)
    }

    /// A branch as a region that reads `captured` first, and what its results stand for, one tensor after another; `None` if it could not
    /// be imported, which has been reported.
    fn branch_region(&mut self, holder: &Holder<'_, 'm>, name: &str, captured: &[ValueId]) -> Result<Option<(Region, Vec<Operand>)>, Stop> {
        let graph: &GraphProto = holder.graph(name)?;
        let prefix = format!("{}/{name}/", self.label(holder.node, holder.index));
        let wanted = holder.wanted.iter().chain(std::iter::repeat(&false));
        let outputs: Vec<&str> = graph.output.iter().zip(wanted).filter(|(_, w)| **w).map(|(o, _)| o.name.as_str()).collect();
        if outputs.len() < holder.wanted.iter().filter(|w| **w).count() {
            return Err(malformed(Code::Operand, format!("`{name}` of `If` has {} outputs, found more that are read", outputs.len())));
        }
        self.build.open_region(&[]);
        captured.iter().for_each(|&value| {
            self.build.capture(value);
        });
        let bindings = match self.subgraph(graph, prefix, vec![], HashMap::new(), &outputs) {
            Ok(bindings) => bindings,
            Err(stop) => {
                self.build.discard_region();
                return Err(stop);
            }
        };
        match whole(bindings) {
            Some(outputs) => {
                let values: Vec<ValueId> = outputs.iter().flat_map(|output| output.values().iter().copied()).collect();
                Ok(Some((self.build.close_region(&values), outputs)))
            }
            None => {
                self.build.discard_region();
                Ok(None)
            }
        }
    }

    /// One of the results of two regions, of which the second reads all that the first does.
    fn branched(&mut self, condition: ValueId, mut then: Region, or: Region) -> Result<Vec<ValueId>, Stop> {
        for &value in &or.captured()[then.captured().len()..] {
            let (name, ty) = (self.build.graph.value(value).name.clone(), self.build.graph.ty(value).clone());
            then.graph.add_param(&name, ty);
        }
        let operands = or.captured().to_vec();
        let types = |region: &Region| region.graph.results.iter().map(|&r| region.graph.ty(r).clone()).collect::<Vec<_>>();
        let (ones, others) = (types(&then), types(&or));
        if let Some((one, other)) = ones.iter().zip(&others).find(|(a, b)| a.dtype != b.dtype || a.rank() != b.rank()) {
            return match self.dropping(condition, [&then, &or]) {
                Some(branch) => self.build.inline(branch, &operands).map_err(misfit),
                None => Err(self.undecided(condition, one, other)),
            };
        }
        if ones == others && is_light(&then.graph) && is_light(&or.graph) {
            let one = self.build.inline(&then, &operands).map_err(misfit)?;
            let other = self.build.inline(&or, &operands).map_err(misfit)?;
            let chosen = one.into_iter().zip(other).map(|(one, other)| self.build_op(Op::select, &[condition, one, other]));
            return chosen.collect();
        }
        let mut results = Results::new(self, &operands);
        let names: Vec<Arc<str>> = then.graph.results.iter().map(|&r| then.graph.value(r).name.clone()).collect();
        let types = ones.iter().zip(&others).zip(&names).map(|((one, other), name)| results.of(self, &[one, other], name)).collect();
        let op = Op::branch { name: self.build.control_name('b'), found: results.found };
        self.build.control(op, vec![then.graph, or.graph], &operands, types).map_err(misfit)
    }

    /// Of two branches of different numbers of axes, the one that drops an axis if the condition finds its extent to be 1: that is how an
    /// exporter writes `squeeze` for an axis whose extent it does not know. The axis is then dropped whatever its extent, which the
    /// reshape takes to be 1, and whoever runs the graph checks ([`egret_ir::assume`]).
    fn dropping<'r>(&self, condition: ValueId, [then, or]: [&'r Region; 2]) -> Option<&'r Region> {
        let (extent, holds) = self.asked_for_one(condition)?;
        let branch = if holds { then } else { or };
        let is_dropped = |taken: &Relation| taken.kind == assume::Kind::Equal && taken.left == taken.right.clone() * extent.clone();
        assume::of(&branch.graph).iter().any(|assumption| is_dropped(&assumption.relation)).then_some(branch)
    }

    /// The extent of which a condition says whether it is 1, and what it says then.
    fn asked_for_one(&self, condition: ValueId) -> Option<(Dim, bool)> {
        let graph = &self.build.graph;
        let node = graph.node(graph.producer(condition)?);
        match node.op {
            Op::reshape { .. } | Op::cast { .. } => self.asked_for_one(node.operands[0]),
            Op::not => self.asked_for_one(node.operands[0]).map(|(extent, holds)| (extent, !holds)),
            Op::eq => match (&*self.build.contents(node.operands[0])?, &*self.build.contents(node.operands[1])?) {
                ([extent], [one]) | ([one], [extent]) if one.is(1) => Some((extent.clone(), true)),
                _ => None,
            },
            _ => None,
        }
    }

    // ---- loops

    /// A loop as a region; its results are what is carried in the end, and the rows of all steps.
    pub(super) fn repeated(&mut self, holder: &Holder<'_, 'm>, steps: &Steps<'m>, import: Import<'_, 'm>) -> Outputs {
        let mut params: Vec<TensorType> = steps.carried.iter().map(|&v| self.build.graph.ty(v).clone()).collect();
        let mut own = BTreeSet::new();
        loop {
            let Some((body, rows, always)) = self.loop_region(holder, steps, &params, &mut *import)? else { return Ok(None) };
            let next: Vec<TensorType> = (0..params.len()).map(|i| body.graph.ty(body.graph.results[1 + i]).clone()).collect();
            let freed = self.freed(holder, steps, &params, &next, &mut own)?;
            if freed == params {
                self.restart(holder);
                return self.loop_node(steps, body, &params, rows, always).map(Some);
            }
            self.build.discard(body);
            params = freed;
        }
    }

    /// The body as a region for carried values of these types; how many rows it gives, and whether there is always another step.
    fn loop_region(
        &mut self,
        holder: &Holder<'_, 'm>,
        steps: &Steps<'m>,
        params: &[TensorType],
        import: Import<'_, 'm>,
    ) -> Result<Option<(Region, usize, bool)>, Stop> {
        let scalar = |dtype| TensorType::new(dtype, [] as [Dim; 0]);
        let head = [("step", scalar(DType::I64)), ("going", scalar(DType::Bool))];
        let carried = steps.names.iter().copied().chain(std::iter::repeat("carried")).zip(params.iter().cloned());
        let values = self.build.open_region(&head.into_iter().chain(carried).collect::<Vec<_>>());
        match self.loop_body(holder, &values, import) {
            Ok(Some((results, rows, always))) => Ok(Some((self.build.close_region(&results), rows, always))),
            other => {
                self.build.discard_region();
                other.map(|_| None)
            }
        }
    }

    /// The results of the region that is open: the next condition, what is carried, and rows.
    fn loop_body(
        &mut self,
        holder: &Holder<'_, 'm>,
        values: &[ValueId],
        import: Import<'_, 'm>,
    ) -> Result<Option<(Vec<ValueId>, usize, bool)>, Stop> {
        let Some(body) = import(self, values[0], &values[2..])? else { return Ok(None) };
        if body.carried.len() != values.len() - 2 {
            let message =
                format!("the body of `{}` gives {} states, expected {}", holder.node.op_type, body.carried.len(), values.len() - 2);
            return Err(malformed(Code::Operand, message));
        }
        let always = body.going.is_none_or(|going| self.build.truth(going) == Some(true));
        let going = match body.going.filter(|_| !always) {
            Some(going) => {
                let mut site = self.site(holder);
                let going = site.cast(going, DType::Bool)?;
                site.reshape(going, [])?
            }
            None => values[1],
        };
        Ok(Some(([&[going], &body.carried[..], &body.rows].concat(), body.rows.len(), always)))
    }

    /// The types of carried values, with a symbol in `own` for every extent that a step changes.
    fn freed(
        &mut self,
        holder: &Holder<'_, 'm>,
        steps: &Steps<'m>,
        params: &[TensorType],
        next: &[TensorType],
        own: &mut BTreeSet<Arc<str>>,
    ) -> Result<Vec<TensorType>, Stop> {
        let operator = &holder.node.op_type;
        if let Some((before, after)) = params.iter().zip(next).find(|(a, b)| a.dtype != b.dtype || a.rank() != b.rank()) {
            let message = format!("`{operator}` carries {before} into a step and {after} out of it");
            return Err(fault(Code::ControlFlow, message, "export it so that what a loop carries keeps its element type and its rank"));
        }
        // Extents that start alike and change alike stay alike.
        let mut symbols: HashMap<(Dim, Dim), Dim> = HashMap::new();
        let mut changes: HashMap<Dim, Dim> = HashMap::new();
        let mut freed = params.to_vec();
        for ((ty, next), name) in freed.iter_mut().zip(next).zip(steps.names.iter().chain(std::iter::repeat(&"carried"))) {
            for (axis, (dim, after)) in ty.dims.iter_mut().zip(&next.dims).enumerate() {
                let is_own = dim.as_symbol().is_some_and(|s| own.contains(s));
                let agrees = changes.entry(dim.clone()).or_insert_with(|| after.clone()) == after;
                if dim == after || is_own && agrees {
                    continue;
                }
                let fresh = symbols.entry((dim.clone(), after.clone()));
                let fresh = fresh.or_insert_with(|| self.build.fresh_symbol(&format!("{name}.{axis}"))).clone();
                own.extend(fresh.as_symbol().cloned());
                *dim = fresh;
            }
        }
        Ok(freed)
    }

    fn loop_node(
        &mut self,
        steps: &Steps<'m>,
        body: Region,
        params: &[TensorType],
        rows: usize,
        always: bool,
    ) -> Result<Vec<ValueId>, Stop> {
        let operands = [&[steps.count, steps.going], &steps.carried[..], body.captured()].concat();
        let carried = steps.carried.len();
        let returned: Vec<(TensorType, Arc<str>)> =
            body.graph.results.iter().skip(1).map(|&r| (body.graph.ty(r).clone(), body.graph.value(r).name.clone())).collect();
        let mut results = Results::new(self, &operands);
        let mut types = vec![];
        for (i, (next, name)) in returned[..carried].iter().enumerate() {
            let first = self.build.graph.ty(steps.carried[i]).clone();
            types.push(results.of(self, &[&params[i], next, &first], name));
        }
        let count = steps.trips.clone().filter(|_| always && self.build.truth(steps.going) == Some(true));
        let count = count.or_else(|| (rows > 0).then(|| results.fresh(self, "steps")));
        for (row, name) in &returned[carried..] {
            let row = results.of(self, &[row], name);
            types.push(TensorType { dtype: row.dtype, dims: count.iter().cloned().chain(row.dims).collect() });
        }
        let op = Op::repeat { name: self.build.control_name('r'), carried, found: results.found };
        self.build.control(op, vec![body.graph], &operands, types).map_err(misfit)
    }
}

/// The extents of the results of a loop or a branch.
struct Results {
    /// The symbols that are known behind it.
    known: BTreeSet<Arc<str>>,
    /// The extents that are known when it has run.
    found: Vec<Dim>,
    /// What stands for an extent of a region that is not known around it.
    outer: HashMap<(usize, Dim), Dim>,
}

impl Results {
    fn new(importer: &Importer, operands: &[ValueId]) -> Results {
        let known = operands.iter().flat_map(|&v| &importer.build.graph.ty(v).dims).flat_map(Dim::symbols).collect();
        Results { known, found: vec![], outer: HashMap::new() }
    }

    /// The type of a result that may come from any of these.
    fn of(&mut self, importer: &mut Importer, sources: &[&TensorType], name: &str) -> TensorType {
        let mut ty = sources[0].clone();
        for (axis, dim) in ty.dims.iter_mut().enumerate() {
            let agree = sources.iter().all(|source| source.dims[axis] == *dim);
            if agree && dim.symbols().iter().all(|s| self.known.contains(s)) {
                continue;
            }
            // What two branches give is apart; extents of rows, or of what a loop carries, are alike where they are alike in the region.
            let key = (sources.len(), dim.clone());
            let shared = sources.len() != 2;
            *dim = match self.outer.get(&key).filter(|_| shared) {
                Some(outer) => outer.clone(),
                None => self.fresh(importer, &format!("{}.{axis}", name.rsplit('/').next().unwrap_or(name))),
            };
            self.outer.insert(key, dim.clone());
        }
        ty
    }

    /// An extent that is known when it has run.
    fn fresh(&mut self, importer: &mut Importer, name: &str) -> Dim {
        let fresh = importer.build.fresh_symbol(name);
        self.found.push(fresh.clone());
        fresh
    }
}

fn misfit(message: String) -> Stop {
    malformed(Code::ControlFlow, message)
}

/// Whether a branch is cheap enough to be computed also where it is not taken.
fn is_light(graph: &Graph) -> bool {
    let light = |op: &Op| match op.def().kind {
        Kind::Elementwise | Kind::Composite | Kind::View | Kind::Reduce => true,
        Kind::Structured => {
            matches!(op, Op::concat { .. } | Op::dims { .. } | Op::gather { .. } | Op::iota { .. } | Op::pad { .. } | Op::bit_cast { .. })
        }
    };
    graph.nodes().len() <= LIGHT_NODES && graph.nodes().iter().all(|node| light(&node.op))
}
