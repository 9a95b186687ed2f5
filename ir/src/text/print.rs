//! Writes a graph as text.

use super::data::read_data;
use super::{content_hash, name, quoted};
use crate::attr::Attr;
use crate::graph::{Graph, Node, Source, Value, ValueId};
use crate::op::Op;
use crate::tensor::{Element, Tensor};
use crate::ty::DType;
use std::fmt;

/// Constants of up to this many elements are printed in full: a 4x4 matrix still fits one line.
const INLINE_ELEMENTS: usize = 16;

/// Whole numbers below this are printed in full: the largest f16 is 65504, though 65500 would read back the same.
const LARGEST_WHOLE: f64 = 1e7;

/// Cells wider than this do not widen their column: one LSTM must not push every type out of sight.
const COLUMN: [usize; 4] = [32, 72, 40, 60];

/// A signature longer than this has one parameter per line.
const LINE: usize = 110;

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether nodes name the nodes of the original model they came from: `@ "/fc1/Gemm"`.
    pub origins: bool,
    /// How kernels show their regions.
    pub regions: Regions,
}

/// How kernels show their regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regions {
    /// On the same line, by the ops' names: `{ matmul · add · relu }`. Cannot be read back.
    Summary,
    /// As nodes, indented below the kernel.
    Full,
}

impl Options {
    /// Everything there is: what is read back as an equal graph.
    pub fn lossless() -> Options {
        Options { origins: true, regions: Regions::Full }
    }

    /// For reading: a kernel on one line, no origins.
    pub fn brief() -> Options {
        Options { origins: false, regions: Regions::Summary }
    }
}

impl Default for Options {
    /// Origins, and a kernel on one line.
    fn default() -> Options {
        Options { origins: true, regions: Regions::Summary }
    }
}

/// The text of a graph; ends with a newline.
pub fn print(graph: &Graph, options: Options) -> String {
    let mut lines = vec![header(graph)];
    lines.extend(body(graph, options));
    lines.push("}".into());
    lines.join("\n") + "\n"
}

/// Prints with the default [`Options`].
impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self, Options::default()))
    }
}

fn header(graph: &Graph) -> String {
    let params: Vec<String> = graph.params().iter().map(|&p| typed_name(graph.value(p))).collect();
    let results: Vec<String> = graph.results.iter().map(|&r| graph.ty(r).to_string()).collect();
    let arrow = if results.is_empty() { String::new() } else { format!(" -> {}", results.join(", ")) };
    let line = format!("graph {}({}){arrow} {{", name(&graph.name), params.join(", "));
    if line.chars().count() <= LINE {
        return line;
    }
    format!("graph {}(\n    {},\n){arrow} {{", name(&graph.name), params.join(",\n    "))
}

fn typed_name(value: &Value) -> String {
    format!("{}: {}", name(&value.name), value.ty)
}

/// The lines between the braces, indented.
fn body(graph: &Graph, options: Options) -> Vec<String> {
    let constants: Vec<Vec<String>> = graph.constants().map(|(_, v)| constant(v)).collect();
    let nodes: Vec<Vec<String>> = graph.nodes().iter().map(|n| node(graph, n, options)).collect();
    let mut lines = aligned(&constants);
    for (node, line) in graph.nodes().iter().zip(aligned(&nodes)) {
        match &node.region {
            Some(region) if is_spelled(node, options) => {
                lines.push(line + " {");
                lines.extend(body(region, options));
                if let Some(otherwise) = &node.otherwise {
                    lines.push("} else {".into());
                    lines.extend(body(otherwise, options));
                }
                lines.push("}".into());
            }
            _ => lines.push(line),
        }
    }
    lines.push(returned(graph));
    lines.into_iter().map(|line| format!("    {line}")).collect()
}

/// The cells of a constant's line.
fn constant(value: &Value) -> Vec<String> {
    let crate::graph::Def::Const(tensor, source) = &value.def else {
        return vec![];
    };
    vec![format!("const {}", typed_name(value)), format!("= {}", data(tensor, source))]
}

/// The cells of a node's line: results, application, types, origins, region.
fn node(graph: &Graph, node: &Node, options: Options) -> Vec<String> {
    let results = names(graph, &node.results).join(", ");
    let types: Vec<String> = node.results.iter().map(|&r| graph.ty(r).to_string()).collect();
    let origins: Vec<String> = node.origin.iter().map(|o| quoted(o)).collect();
    let shown = options.origins && !origins.is_empty();
    vec![
        results,
        format!("= {}", application(graph, node, options)),
        format!(": {}", types.join(", ")),
        if shown { format!("@ {}", origins.join(", ")) } else { String::new() },
        node.region.as_ref().filter(|_| !is_spelled(node, options)).map(|region| summary(region)).unwrap_or_default(),
    ]
}

fn names(graph: &Graph, values: &[ValueId]) -> Vec<String> {
    values.iter().map(|&v| name(&graph.value(v).name).into_owned()).collect()
}

fn application(graph: &Graph, node: &Node, options: Options) -> String {
    let operands = names(graph, &node.operands);
    match (&node.op, &node.region) {
        (Op::kernel { name: own } | Op::stage { name: own }, Some(region)) => {
            let operands = match is_spelled(node, options) {
                false => operands,
                true => names(region, region.params()).iter().zip(&operands).map(bound).collect(),
            };
            format!("{} {}({})", node.op.name(), name(own), operands.join(", "))
        }
        (Op::repeat { name: own, .. } | Op::branch { name: own, .. }, Some(region)) => {
            let operands: Vec<String> = region.params().iter().zip(&node.operands).map(|(&p, &v)| given(region, p, graph, v)).collect();
            format!("{} {}{}({})", node.op.name(), name(own), attrs(&node.op, &["name"]), operands.join(", "))
        }
        (op, _) => format!("{op}({})", operands.join(", ")),
    }
}

/// A parameter and its operand; with the parameter's type where it is another.
fn given(region: &Graph, param: ValueId, graph: &Graph, operand: ValueId) -> String {
    let (param, operand) = (region.value(param), graph.value(operand));
    let own = if param.ty == operand.ty { name(&param.name).into_owned() } else { typed_name(param) };
    bound((&own, &name(&operand.name).into_owned()))
}

fn bound((param, operand): (&String, &String)) -> String {
    if param == operand { param.clone() } else { format!("{param} = {operand}") }
}

/// Whether a node's region is shown as nodes: always but for kernels, for it is where the model is.
fn is_spelled(node: &Node, options: Options) -> bool {
    options.regions == Regions::Full || !matches!(node.op, Op::kernel { .. })
}

fn summary(region: &Graph) -> String {
    let ops: Vec<&str> = region.nodes().iter().map(|n| n.op.name()).collect();
    format!("{{ {} }}", ops.join(" · "))
}

/// The op with the attributes that are not their defaults: `conv[stride=[1, 1], pad=[0, 0, 0, 0], dilation=[1, 1]]`.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name(), attrs(self, &[]))
    }
}

/// The attributes in brackets that are not their defaults, but for some.
fn attrs(op: &Op, left_out: &[&str]) -> String {
    let def = op.def();
    let attrs = def.attrs.iter().zip(op.attrs()).zip(def.defaults()).filter(|((n, _), _)| !left_out.contains(n));
    let shown: Vec<String> =
        attrs.filter(|((_, v), default)| Some(v) != default.as_ref()).map(|((n, v), _)| format!("{n}={}", Shown(&v))).collect();
    if shown.is_empty() { String::new() } else { format!("[{}]", shown.join(", ")) }
}

/// An attribute with its words quoted where needed.
struct Shown<'a>(&'a Attr);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Attr::Word(word) => f.write_str(&super::symbol(word)),
            other => other.fmt(f),
        }
    }
}

fn returned(graph: &Graph) -> String {
    let result = |(&value, outer): (&ValueId, &std::sync::Arc<str>)| {
        let inner = &graph.value(value).name;
        if inner == outer { name(inner).into_owned() } else { format!("{} as {}", name(inner), name(outer)) }
    };
    let results: Vec<String> = graph.results.iter().zip(&graph.result_names).map(result).collect();
    format!("return {}", results.join(", ")).trim_end().to_string()
}

/// How the data of a constant is written: as its source says if that gives the same bits, else by its hash.
fn data(tensor: &Tensor, source: &Source) -> String {
    let splat = || Some(format!("splat({})", listed(&first(tensor)?)?));
    let list = || {
        if tensor.count() <= INLINE_ELEMENTS { listed(tensor) } else { None }
    };
    let text = match source {
        Source::Random(seed) => Some(format!("random({seed})")),
        Source::Splat if tensor.as_splat().is_some() => splat().or_else(list),
        Source::Splat | Source::Data => list().or_else(|| tensor.as_splat().and_then(|_| splat())),
    };
    text.unwrap_or_else(|| format!("data(blake3:{})", content_hash(tensor)))
}

/// The first element, of rank 0.
fn first(tensor: &Tensor) -> Option<Tensor> {
    let size = tensor.dtype().size();
    Tensor::new(tensor.dtype(), vec![], tensor.bytes().slice(..size)).ok()
}

/// The elements one by one, if that reads back: NaNs with a payload, and truth values stored as 2, have no text.
fn listed(tensor: &Tensor) -> Option<String> {
    let elements: Vec<String> = tensor.elements().map(|e| element(e, tensor.dtype())).collect();
    let text = if tensor.shape().is_empty() { elements.concat() } else { format!("[{}]", elements.join(", ")) };
    read_data(&text, &tensor.ty()).is_ok_and(|read| read == *tensor).then_some(text)
}

/// The shortest decimal that reads back as this element.
fn element(element: Element, dtype: DType) -> String {
    let Element::Float(value) = element else {
        return element.shown(dtype);
    };
    if value.fract() == 0.0 && value.abs() < LARGEST_WHOLE {
        return format!("{value:?}");
    }
    // 17 significant digits tell every f64 apart.
    let shortest = (0..17).find_map(|digits| {
        let decimal: f64 = format!("{value:.digits$e}").parse().ok()?;
        (Element::Float(decimal).rounded(dtype) == element).then_some(decimal)
    });
    format!("{:?}", shortest.unwrap_or(value))
}

/// Rows of cells as lines: each cell padded to its column, empty columns left out.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let width = |cell: &String| cell.chars().count();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|c| {
            let limit = COLUMN.get(c).copied().unwrap_or(usize::MAX);
            rows.iter().map(|r| width(&r[c])).filter(|&w| w <= limit).max().unwrap_or(0)
        })
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).filter(|(cell, w)| **w > 0 || !cell.is_empty());
        let padded: Vec<String> = cells.map(|(cell, &w)| format!("{cell:w$}")).collect();
        padded.join(" ").trim_end().to_string()
    };
    rows.iter().map(line).collect()
}
