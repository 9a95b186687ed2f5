//! Ensembles of trees: all rows go down all trees at once, a level at a time.
//!
//! The nodes of all trees stand in tables, and a leaf leads to itself. Where the rows stand is a matrix `[rows, trees]`; one level down
//! is a few gathers and a comparison, so code does not grow with the number of trees:
//!
//! ```text
//! goes = x[row, feature[at]] <= threshold[at]
//! at   = select(goes, on_true[at], on_false[at])          as often as the deepest tree has levels
//! y    = sum over trees of weight[at]
//! ```

use super::{classes, integers, labelled, needed, rows, transformed};
use crate::error::Code;
use crate::site::{Outcome, Site, Stop, malformed};
use egret_ir::{DType, Dim, Element, Op, Tensor, ValueId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Levels of a tree: unlimited random forests have some forty; each is a handful of ops.
const MOST_LEVELS: usize = 512;

/// Weights of all nodes for all targets: thousands of trees of thousands of leaves for some classes.
const MOST_WEIGHTS: usize = 1 << 26;

/// What a node compares.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Which of below, equal to and above the threshold go to the true side.
    Order([bool; 3]),
    /// What is a member of the node's set.
    Member,
    Leaf,
}

const LEQ: Mode = Mode::Order([true, true, false]);

/// The modes by the names and numbers they have in the two forms of the operator.
const MODES: [(&str, Mode); 8] = [
    ("BRANCH_LEQ", LEQ),
    ("BRANCH_LT", Mode::Order([true, false, false])),
    ("BRANCH_GTE", Mode::Order([false, true, true])),
    ("BRANCH_GT", Mode::Order([false, false, true])),
    ("BRANCH_EQ", Mode::Order([false, true, false])),
    ("BRANCH_NEQ", Mode::Order([true, false, true])),
    ("BRANCH_MEMBER", Mode::Member),
    ("LEAF", Mode::Leaf),
];

/// A node of a tree.
#[derive(Clone)]
struct Node {
    mode: Mode,
    feature: i64,
    threshold: f64,
    /// The nodes on the true and on the false side.
    next: [usize; 2],
    /// Whether NaN goes to the true side.
    missing: bool,
    members: Vec<f64>,
}

impl Node {
    fn leaf() -> Node {
        Node { mode: Mode::Leaf, feature: 0, threshold: 0.0, next: [0; 2], missing: false, members: vec![] }
    }
}

/// All trees.
struct Trees {
    nodes: Vec<Node>,
    roots: Vec<usize>,
    /// The type of thresholds and weights.
    dtype: DType,
}

impl Trees {
    /// Where rows `[b, f]` end: `[b, trees]`, the numbers of leaves.
    fn leaves(&self, n: &mut Site, x: ValueId) -> Result<ValueId, Stop> {
        let shape = vec![n.dims(x)[0].clone(), Dim::from(self.roots.len())];
        let roots = integers(n, &self.roots.iter().map(|&r| r as i64).collect::<Vec<i64>>());
        let mut at = n.broadcast(roots, shape)?;
        for _ in 0..self.levels(n)? {
            let goes = self.goes(n, x, at)?;
            let [yes, no] = [0, 1].map(|side| self.nodes.iter().enumerate().map(|(i, node)| next(node, i, side)).collect::<Vec<i64>>());
            let (yes, no) = (integers(n, &yes), integers(n, &no));
            let (yes, no) = (n.op(Op::gather { axis: 0 }, &[yes, at])?, n.op(Op::gather { axis: 0 }, &[no, at])?);
            at = n.op(Op::select, &[goes, yes, no])?;
        }
        Ok(at)
    }

    /// The levels of branches of the deepest tree.
    fn levels(&self, n: &Site) -> Result<usize, Stop> {
        let mut level: BTreeSet<usize> = self.roots.iter().copied().collect();
        for levels in 0..=MOST_LEVELS {
            level = level.iter().map(|&i| &self.nodes[i]).filter(|node| node.mode != Mode::Leaf).flat_map(|node| node.next).collect();
            if level.is_empty() {
                return Ok(levels);
            }
        }
        Err(malformed(Code::Attribute, format!("a tree of `{}` has more than {MOST_LEVELS} levels, or goes in a circle", n.operator)))
    }

    /// A property of each node, looked up where the rows stand.
    fn table(&self, n: &mut Site, at: ValueId, dtype: DType, of: impl Fn(&Node) -> Element) -> Result<ValueId, Stop> {
        let table = n.build.constant(Tensor::from_elements(dtype, vec![self.nodes.len()], self.nodes.iter().map(of)));
        n.op(Op::gather { axis: 0 }, &[table, at])
    }

    /// Whether each row goes to the true side of the node it stands at.
    fn goes(&self, n: &mut Site, x: ValueId, at: ValueId) -> Result<ValueId, Stop> {
        let feature = self.table(n, at, DType::I64, |node| Element::Int(node.feature.into()))?;
        let value = n.op(Op::gather_elements { axis: 1 }, &[x, feature])?;
        let threshold = self.table(n, at, self.dtype, |node| Element::Float(node.threshold))?;
        let branches = || self.nodes.iter().filter(|node| node.mode != Mode::Leaf);
        let mut goes = match branches().map(|node| node.mode).next() {
            Some(LEQ) if branches().all(|node| node.mode == LEQ) => n.op(Op::le, &[value, threshold])?,
            _ => self.compared(n, at, value, threshold)?,
        };
        if branches().any(|node| node.mode == Mode::Member) {
            let member = self.is_member(n, at, value)?;
            goes = n.op(Op::or, &[goes, member])?;
        }
        if branches().any(|node| node.missing) {
            let missing = self.table(n, at, DType::Bool, |node| Element::Bool(node.missing))?;
            let is_nan = n.op(Op::is_nan, &[value])?;
            let missing = n.op(Op::and, &[missing, is_nan])?;
            goes = n.op(Op::or, &[goes, missing])?;
        }
        Ok(goes)
    }

    /// Below, equal or above, as far as the node counts it.
    fn compared(&self, n: &mut Site, at: ValueId, value: ValueId, threshold: ValueId) -> Result<ValueId, Stop> {
        let found = [n.op(Op::lt, &[value, threshold])?, n.op(Op::eq, &[value, threshold])?, n.op(Op::lt, &[threshold, value])?];
        let mut goes = None;
        for (i, found) in found.into_iter().enumerate() {
            let counts = |node: &Node| Element::Bool(matches!(node.mode, Mode::Order(order) if order[i]));
            let counts = self.table(n, at, DType::Bool, counts)?;
            let one = n.op(Op::and, &[counts, found])?;
            goes = Some(match goes {
                Some(goes) => n.op(Op::or, &[goes, one])?,
                None => one,
            });
        }
        goes.ok_or_else(|| malformed(Code::Attribute, "nothing is compared"))
    }

    /// Whether the value is in the set of the node.
    fn is_member(&self, n: &mut Site, at: ValueId, value: ValueId) -> Result<ValueId, Stop> {
        let most = self.nodes.iter().map(|node| node.members.len()).max().unwrap_or(0);
        // NaN is equal to nothing.
        let padded = self.nodes.iter().flat_map(|node| (0..most).map(|i| node.members.get(i).copied().unwrap_or(f64::NAN)));
        let table = Tensor::from_elements(self.dtype, vec![self.nodes.len(), most], padded.map(Element::Float));
        let table = n.build.constant(table);
        let members = n.op(Op::gather { axis: 0 }, &[table, at])?;
        let dims = n.dims(value);
        let value = n.reshape(value, [dims.clone(), vec![Dim::ONE]].concat())?;
        let equal = n.op(Op::eq, &[value, members])?;
        let equal = n.cast(equal, DType::I32)?;
        let any = n.op(Op::reduce_max { axes: vec![2] }, &[equal])?;
        let any = n.reshape(any, dims)?;
        n.cast(any, DType::Bool)
    }

    /// The features as thresholds are compared with them, `[b, f]`.
    fn features(&self, n: &mut Site) -> Result<ValueId, Stop> {
        let x = n.input(0)?;
        let x = rows(n, x)?;
        let most = self.nodes.iter().map(|node| node.feature).max().unwrap_or(0);
        let wrong = self.nodes.iter().any(|node| node.feature < 0) || n.dims(x)[1].as_const().is_some_and(|f| most >= f);
        if wrong {
            return Err(malformed(Code::Attribute, format!("`{}` asks for feature {most} of {}", n.operator, n.ty(x))));
        }
        n.cast(x, self.dtype)
    }
}

/// A leaf leads to itself.
fn next(node: &Node, at: usize, side: usize) -> i64 {
    (if node.mode == Mode::Leaf { at } else { node.next[side] }) as i64
}

/// How the weights of all trees become one.
#[derive(Clone, Copy, PartialEq)]
enum Aggregate {
    Average,
    Sum,
    Min,
    Max,
}

const AGGREGATES: [(&str, Aggregate); 4] =
    [("AVERAGE", Aggregate::Average), ("SUM", Aggregate::Sum), ("MIN", Aggregate::Min), ("MAX", Aggregate::Max)];

/// What leaves weigh, by node and target.
struct Weights {
    targets: usize,
    by_leaf: BTreeMap<(usize, usize), f64>,
}

impl Weights {
    /// The weights of the leaves of all trees as one: `[b, trees]` to `[b, targets]`.
    fn aggregated(&self, n: &mut Site, trees: &Trees, leaves: ValueId, how: Aggregate) -> Result<ValueId, Stop> {
        let is_leaf = |i: &usize| trees.nodes[*i].mode == Mode::Leaf;
        let whole = (0..trees.nodes.len()).filter(is_leaf).all(|i| (0..self.targets).all(|t| self.by_leaf.contains_key(&(i, t))));
        if matches!(how, Aggregate::Min | Aggregate::Max) && !whole {
            return Err(n.refused("aggregate_function", "MIN or MAX", "the least or largest of leaves without a weight is not supported"));
        }
        let weight = |i: usize| Element::Float(self.by_leaf.get(&(i / self.targets, i % self.targets)).copied().unwrap_or(0.0));
        let count = trees.nodes.len().checked_mul(self.targets).filter(|count| *count <= MOST_WEIGHTS);
        let too_large = || format!("an ensemble of {} nodes and {} targets is too large", trees.nodes.len(), self.targets);
        let count = count.ok_or_else(|| malformed(Code::Attribute, too_large()))?;
        let table = Tensor::from_elements(trees.dtype, vec![trees.nodes.len(), self.targets], (0..count).map(weight));
        let table = n.build.constant(table);
        let found = n.op(Op::gather { axis: 0 }, &[table, leaves])?;
        let axes = vec![1];
        let one = match how {
            Aggregate::Sum | Aggregate::Average => n.op(Op::reduce_sum { axes }, &[found])?,
            Aggregate::Min => n.op(Op::reduce_min { axes }, &[found])?,
            Aggregate::Max => n.op(Op::reduce_max { axes }, &[found])?,
        };
        let one = if how == Aggregate::Average { n.with_number(Op::div, one, trees.roots.len() as f64)? } else { one };
        let batch = n.dims(leaves)[0].clone();
        n.reshape(one, [batch, Dim::from(self.targets)])
    }
}

/// A list of numbers that is an attribute of floats, or a tensor of doubles.
fn numbers(n: &Site, name: &str) -> Result<Option<(Vec<f64>, DType)>, Stop> {
    if let Some(tensor) = n.tensor(&format!("{name}_as_tensor"))? {
        return Ok(Some((tensor.to_f64s(), tensor.dtype())));
    }
    Ok(n.floats(name)?.map(|values| (values, DType::F32)))
}

/// Where nodes stand, by their trees and numbers.
type Places = HashMap<(i64, i64), usize>;

/// The trees of TreeEnsembleClassifier and TreeEnsembleRegressor: lists over all nodes of all trees, each with its tree and number.
fn listed_trees(n: &Site) -> Result<(Trees, Places), Stop> {
    n.without_effect(&["nodes_hitrates", "nodes_hitrates_as_tensor"]);
    let list = |name: &str| n.ints(name).and_then(|found| needed(n, name, found));
    let (tree, number, feature) = (list("nodes_treeids")?, list("nodes_nodeids")?, list("nodes_featureids")?);
    let (yes, no) = (list("nodes_truenodeids")?, list("nodes_falsenodeids")?);
    let modes = n.texts("nodes_modes")?;
    // Where every node is a leaf there are no thresholds.
    let (thresholds, dtype) = numbers(n, "nodes_values")?.unwrap_or_else(|| (vec![0.0; modes.len()], DType::F32));
    let missing = n.ints("nodes_missing_value_tracks_true")?.unwrap_or_else(|| vec![0; modes.len()]);
    let lengths = [tree.len(), number.len(), feature.len(), yes.len(), no.len(), modes.len(), thresholds.len(), missing.len()];
    if lengths.iter().any(|&l| l != lengths[0]) || lengths[0] == 0 {
        return Err(malformed(Code::Attribute, format!("the lists of nodes of `{}` differ in length", n.operator)));
    }
    let places: Places = tree.iter().copied().zip(number.iter().copied()).enumerate().map(|(i, id)| (id, i)).collect();
    let find = |tree: i64, number: i64| {
        let found = places.get(&(tree, number)).copied();
        found.ok_or_else(|| malformed(Code::Attribute, format!("tree {tree} of `{}` has no node {number}", n.operator)))
    };
    let mut nodes = vec![];
    for i in 0..tree.len() {
        let mode = MODES.iter().find(|(name, mode)| *name == modes[i] && *mode != Mode::Member).map(|(_, mode)| *mode);
        let mode = mode.ok_or_else(|| n.refused("nodes_modes", &modes[i], format!("`{}` has no mode {}", n.operator, modes[i])))?;
        if mode == Mode::Leaf {
            nodes.push(Node::leaf());
            continue;
        }
        let next = [find(tree[i], yes[i])?, find(tree[i], no[i])?];
        nodes.push(Node { mode, feature: feature[i], threshold: thresholds[i], next, missing: missing[i] != 0, members: vec![] });
    }
    let mut seen = BTreeSet::new();
    let roots = (0..tree.len()).filter(|&i| seen.insert(tree[i])).collect();
    Ok((Trees { nodes, roots, dtype }, places))
}

/// The weights that the attributes `<what>_treeids` and so on list.
fn listed_weights(n: &Site, what: &str, targets: usize, places: &Places) -> Result<Weights, Stop> {
    let list = |name: String| n.ints(&name).and_then(|found| needed(n, &name, found));
    let (tree, number, target) = (list(format!("{what}_treeids"))?, list(format!("{what}_nodeids"))?, list(format!("{what}_ids"))?);
    let weights = needed(n, &format!("{what}_weights"), numbers(n, &format!("{what}_weights"))?.map(|(weights, _)| weights))?;
    let mut by_leaf = BTreeMap::new();
    for (((tree, number), target), weight) in tree.iter().zip(&number).zip(&target).zip(weights) {
        let place = places.get(&(*tree, *number)).copied();
        let target = usize::try_from(*target).ok().filter(|t| *t < targets);
        let (Some(place), Some(target)) = (place, target) else {
            let message = format!("`{}` has a weight for node {number} of tree {tree} that it does not have", n.operator);
            return Err(malformed(Code::Attribute, message));
        };
        *by_leaf.entry((place, target)).or_insert(0.0) += weight;
    }
    Ok(Weights { targets, by_leaf })
}

/// Adds a number for each target.
fn based(n: &mut Site, y: ValueId) -> Result<ValueId, Stop> {
    match numbers(n, "base_values")? {
        Some((base, _)) if !base.is_empty() => {
            let base = super::vector(n, &base, n.dtype(y));
            n.op(Op::add, &[y, base])
        }
        _ => Ok(y),
    }
}

pub(crate) fn regressor(n: &mut Site) -> Outcome {
    let (trees, places) = listed_trees(n)?;
    let targets = usize::try_from(n.int_or("n_targets", 1)?).ok().filter(|t| *t > 0);
    let targets = targets.ok_or_else(|| malformed(Code::Attribute, "`TreeEnsembleRegressor` needs at least one target"))?;
    let weights = listed_weights(n, "target", targets, &places)?;
    let how = n.word("aggregate_function", "SUM", &AGGREGATES)?;
    let x = trees.features(n)?;
    let leaves = trees.leaves(n, x)?;
    let y = weights.aggregated(n, &trees, leaves, how)?;
    let y = based(n, y)?;
    let transform = n.text("post_transform")?;
    let y = transformed(n, y, transform.as_deref())?;
    Ok(vec![n.cast(y, DType::F32)?])
}

/// With weights for one class only there are two classes, and the score says how much it is the second.
pub(crate) fn classifier(n: &mut Site) -> Outcome {
    let (trees, places) = listed_trees(n)?;
    let classes = classes(n)?;
    let ids: BTreeSet<i64> = n.ints("class_ids")?.unwrap_or_default().into_iter().collect();
    let weights = listed_weights(n, "class", classes.count, &places)?;
    let x = trees.features(n)?;
    let leaves = trees.leaves(n, x)?;
    let transform = n.text("post_transform")?;
    let scores = if ids.len() == 1 && classes.count <= 2 {
        let one = Weights { targets: 1, by_leaf: weights.by_leaf.into_iter().map(|((leaf, _), w)| ((leaf, 0), w)).collect() };
        let second = one.aggregated(n, &trees, leaves, Aggregate::Sum)?;
        let second = based(n, second)?;
        let negated = n.op(Op::neg, &[second])?;
        let first = if transform.as_deref().is_none_or(|t| t == "NONE") { n.with_number(Op::add, negated, 1.0)? } else { negated };
        n.concat(&[first, second], 1)?
    } else {
        let scores = weights.aggregated(n, &trees, leaves, Aggregate::Sum)?;
        based(n, scores)?
    };
    let scores = transformed(n, scores, transform.as_deref())?;
    let scores = n.cast(scores, DType::F32)?;
    Ok(vec![labelled(n, scores, &classes)?, scores])
}

/// The form of both since version 5: leaves stand apart from nodes, and everything that is not an integer is a tensor.
pub(crate) fn ensemble(n: &mut Site) -> Outcome {
    n.without_effect(&["nodes_hitrates"]);
    let list = |name: &str| n.ints(name).and_then(|found| needed(n, name, found));
    let tensor = |name: &str| {
        let found = n.tensor(name)?;
        found.ok_or_else(|| malformed(Code::Attribute, format!("`TreeEnsemble` needs the attribute `{name}`")))
    };
    let splits = tensor("nodes_splits")?;
    let (modes, thresholds) = (tensor("nodes_modes")?.to_f64s(), splits.to_f64s());
    let (yes, no, feature) = (list("nodes_truenodeids")?, list("nodes_falsenodeids")?, list("nodes_featureids")?);
    let (yes_leaf, no_leaf) = (list("nodes_trueleafs")?, list("nodes_falseleafs")?);
    let missing = n.ints("nodes_missing_value_tracks_true")?.unwrap_or_else(|| vec![0; modes.len()]);
    let (targets, leaf_weights) = (list("leaf_targetids")?, tensor("leaf_weights")?.to_f64s());
    let lengths = [modes.len(), thresholds.len(), yes.len(), no.len(), feature.len(), yes_leaf.len(), no_leaf.len(), missing.len()];
    if lengths.iter().any(|&l| l != lengths[0]) || targets.len() != leaf_weights.len() {
        return Err(malformed(Code::Attribute, "the lists of nodes or leaves of `TreeEnsemble` differ in length"));
    }
    let (branches, all) = (modes.len(), modes.len() + targets.len());
    let place = |number: i64, is_leaf: i64| {
        let (from, end) = if is_leaf != 0 { (branches, all) } else { (0, branches) };
        let found = usize::try_from(number).ok().and_then(|number| number.checked_add(from)).filter(|at| *at < end);
        found.ok_or_else(|| malformed(Code::Attribute, format!("`TreeEnsemble` has no node or leaf {number}")))
    };
    let mut sets = members(n)?.into_iter();
    let mut nodes = vec![];
    for i in 0..branches {
        let mode = MODES.get(modes[i] as usize).map(|(_, mode)| *mode).filter(|mode| *mode != Mode::Leaf);
        let mode = mode.ok_or_else(|| n.refused("nodes_modes", modes[i], "`TreeEnsemble` has the modes 0 to 6"))?;
        let members = if mode == Mode::Member { sets.next().unwrap_or_default() } else { vec![] };
        let next = [place(yes[i], yes_leaf[i])?, place(no[i], no_leaf[i])?];
        nodes.push(Node { mode, feature: feature[i], threshold: thresholds[i], next, missing: missing[i] != 0, members });
    }
    nodes.resize_with(all, Node::leaf);
    // A tree of one leaf is a branch to it on both sides.
    let roots = list("tree_roots")?.into_iter().map(|root| place(root, 0)).collect::<Result<Vec<usize>, Stop>>()?;
    let trees = Trees { nodes, roots, dtype: splits.dtype() };
    let count = usize::try_from(n.int_or("n_targets", 1)?).unwrap_or(0).max(1);
    let target = |t: i64| usize::try_from(t).ok().filter(|t| *t < count);
    let by_leaf = targets.iter().zip(&leaf_weights).enumerate().map(|(i, (&t, &w))| Some(((branches + i, target(t)?), w)));
    let by_leaf =
        by_leaf.collect::<Option<_>>().ok_or_else(|| malformed(Code::Attribute, "a leaf of `TreeEnsemble` has no such target"))?;
    let how = AGGREGATES.get(n.int_or("aggregate_function", 1)? as usize).map(|(_, how)| *how);
    let how = how.ok_or_else(|| malformed(Code::Attribute, "`TreeEnsemble` has the aggregate functions 0 to 3"))?;
    let transform = n.int_or("post_transform", 0)?;
    let x = trees.features(n)?;
    let leaves = trees.leaves(n, x)?;
    let y = Weights { targets: count, by_leaf }.aggregated(n, &trees, leaves, how)?;
    let name = ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"].get(usize::try_from(transform).unwrap_or(usize::MAX)).copied();
    Ok(vec![transformed(n, y, Some(name.unwrap_or("another")))?])
}

/// The sets of the nodes that ask for members, in their order; NaN stands behind each.
fn members(n: &Site) -> Result<Vec<Vec<f64>>, Stop> {
    let values = n.tensor("membership_values")?.map(|t| t.to_f64s()).unwrap_or_default();
    Ok(values.split(|v| v.is_nan()).map(<[f64]>::to_vec).collect())
}
