//! From a model to a graph: names, order, functions and branches.
//!
//! Nodes are imported in the order of their operands. What goes wrong at one is noted as a [`Problem`], its results count as
//! broken, and the import goes on, so that a user sees all problems at once and none twice.

use crate::build::Builder;
use crate::error::{Code, FileError, ImportError, Place, Problem, Warning, counted, did_you_mean, listed};
use crate::inputs::{self, Declared, Form, contradiction};
use crate::limits::{MAX_GRAPHS, MAX_NODES, MAX_PROBLEMS};
use crate::model::{Model, TensorError};
use crate::order::{Order, order, reads};
use crate::scope::{Binding, Operand, Scope, Scopes, domain, opsets};
use crate::site::{BREAKS_SPECIFICATION, Fault, Outcome, Site, Stop, fault, malformed};
use crate::table::{self, NEWEST_OPSET, OLDEST_OPSET};
use crate::{Import, ImportOptions, Summary};
use egret_ir::{Bindings, Graph, TensorType, ValueId};
use onnx_protobuf::{AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

mod control;
pub(crate) mod sequence;

/// The inputs of a model that has been read, for these lengths of sequences.
pub(crate) fn inputs(model: &Model, lengths: &Bindings) -> Result<Vec<(Arc<str>, TensorType)>, ImportError> {
    let mut importer = Importer::new(model, &model.proto.graph);
    importer.parameters(&model.proto.graph, &ImportOptions { dims: lengths.clone(), ..ImportOptions::default() })?;
    if !importer.problems.is_empty() {
        return Err(ImportError::Unsupported(importer.problems));
    }
    let graph = &importer.build.graph;
    Ok(graph.params().iter().map(|&p| (graph.value(p).name.clone(), graph.ty(p).clone())).collect())
}

/// Unknown names for which a similar one is looked for: looking takes time, and many unknown names have one cause.
const SUGGESTIONS: usize = 20;

/// What to do about what only a newer operator set has.
const NEWER: &str = "export the model for an older operator set";

/// Imports a model that has been read.
pub(crate) fn import(model: &Model, options: &ImportOptions) -> Result<Import, ImportError> {
    let graph: &GraphProto = &model.proto.graph;
    let mut importer = Importer::new(model, graph);
    importer.check_opsets();
    importer.declare_names(graph);
    importer.parameters(graph, options)?;
    let outputs: Vec<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
    importer.nodes(&graph.node, &outputs).map_err(|e| ImportError::File(*e))?;
    importer.results(graph).map_err(|e| ImportError::File(*e))?;
    importer.finish(graph)
}

/// What can be imported of a model: every value of its main graph that is read or an output, each a result under its own name.
/// Nodes that cannot be imported are passed over.
pub(crate) fn values(model: &Model, options: &ImportOptions) -> Result<Graph, ImportError> {
    let graph: &GraphProto = &model.proto.graph;
    let mut importer = Importer::new(model, graph);
    importer.declare_names(graph);
    importer.parameters(graph, options)?;
    let ends = graph.output.iter().map(|o| o.name.as_str());
    let read: HashSet<&str> = graph.node.iter().flat_map(reads).chain(ends).collect();
    let made = graph.node.iter().flat_map(|n| &n.output).map(String::as_str);
    let names: Vec<&str> = made.filter(|name| read.contains(name)).collect();
    importer.nodes(&graph.node, &names).map_err(|e| ImportError::File(*e))?;
    for name in names {
        if let Some((&Binding::Is(Operand::Tensor(value)), _)) = importer.scopes.find(name) {
            importer.build.graph.add_result(value, name);
        }
    }
    Ok(importer.build.graph)
}

struct Importer<'m> {
    model: &'m Model,
    /// By domain, name and overload.
    functions: HashMap<(&'m str, &'m str, &'m str), &'m FunctionProto>,
    build: Builder,
    scopes: Scopes<'m>,
    /// The functions whose bodies are being imported.
    calls: Vec<*const FunctionProto>,
    imported: usize,
    /// Whether the import ended early, so that names are missing that the model does make.
    stopped: bool,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
    /// Operators and attributes that have been warned of.
    warned: HashSet<(String, String)>,
}

/// What the inputs of a node stand for; `None` when one of them is broken.
type Operands = Option<Vec<Operand>>;

impl<'m> Importer<'m> {
    fn new(model: &'m Model, graph: &'m GraphProto) -> Importer<'m> {
        let made = graph.node.iter().flat_map(|n| &n.output).map(String::as_str);
        let names = graph.input.iter().map(|i| i.name.as_str()).chain(graph.initializer.iter().map(|t| t.name.as_str())).chain(made);
        let build = Builder::new(&graph.name, names.map(Arc::from));
        let functions = model.proto.functions.iter().map(|f| ((domain(&f.domain), f.name.as_str(), f.overload.as_str()), f)).collect();
        let mut scopes = Scopes::default();
        scopes.push(Scope { opsets: opsets(&model.proto.opset_import), ..Scope::default() });
        Importer {
            model,
            functions,
            build,
            scopes,
            calls: vec![],
            imported: 0,
            stopped: false,
            problems: vec![],
            warnings: vec![],
            warned: HashSet::new(),
        }
    }

    fn problem(&mut self, code: Code, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem { code, message: message.into(), place: None, attribute: None, data: vec![], help: help.into() });
    }

    fn fault(&mut self, fault: Fault, place: Option<Place>) {
        let Fault { code, message, attribute, data, help } = fault;
        self.problems.push(Problem { code, message, place, attribute, data: data.into_vec(), help });
    }

    // ---- before the nodes

    fn check_opsets(&mut self) {
        match self.scopes.top().opsets.get("").copied() {
            Some(version) if version < OLDEST_OPSET => self.problem(
                Code::Opset,
                format!("operator set {version} is older than {OLDEST_OPSET}, the oldest that is read"),
                "convert the model with `onnx.version_converter.convert_version`, or export it again",
            ),
            Some(version) if version > NEWEST_OPSET => self.warnings.push(Warning {
                message: format!("operator set {version} is newer than {NEWEST_OPSET}, the newest that is known; its operators are taken to mean what they mean in {NEWEST_OPSET}"),
            }),
            Some(_) => {}
            None if self.model.proto.graph.node.iter().all(|n| !domain(&n.domain).is_empty()) => {}
            None => self.problem(Code::Opset, "the model does not say which operator set it uses", "set `opset_import` of the model"),
        }
    }

    /// Checks that no name is made twice, and makes initializers known.
    fn declare_names(&mut self, graph: &'m GraphProto) {
        let mut makers: HashMap<&str, &str> = HashMap::new();
        let inputs = graph.input.iter().map(|i| (i.name.as_str(), "an input"));
        let made = graph.node.iter().flat_map(|n| &n.output).map(|o| (o.as_str(), "the output of a node"));
        for (name, what) in inputs.chain(made).filter(|(name, _)| !name.is_empty()) {
            if let Some(before) = makers.insert(name, what) {
                self.problem(
                    Code::Name,
                    format!("`{name}` is {before} and again {what}, expected one maker per name"),
                    "give every value its own name and export the model again",
                );
            }
        }
        for tensor in &graph.initializer {
            if makers.get(tensor.name.as_str()) == Some(&"the output of a node")
                || self.scopes.top().names.contains_key(tensor.name.as_str())
            {
                self.problem(
                    Code::Name,
                    format!("the initializer `{}` is made twice, expected one maker per name", tensor.name),
                    "give every value its own name and export the model again",
                );
            }
            self.scopes.top_mut().names.insert(&tensor.name, Binding::Initializer(tensor));
        }
        for sparse in &graph.sparse_initializer {
            let name = sparse.values.name.as_str();
            self.problem(
                Code::ValueKind,
                format!("the initializer `{name}` is a sparse tensor, expected a dense one"),
                "convert it to a dense tensor before the export",
            );
        }
    }

    /// Adds the inputs that are no initializers.
    fn parameters(&mut self, graph: &'m GraphProto, options: &ImportOptions) -> Result<(), ImportError> {
        let inputs::Ports { forms, tensors: declared, faults } = inputs::ports(graph, options);
        let bindings = inputs::bindings(graph, &declared, options).map_err(ImportError::Options)?;
        if let Some(name) = options.values.keys().find(|name| declared.iter().all(|input| *input.name != ***name)) {
            return Err(ImportError::Options(format!("the model has no input `{name}` to be fixed")));
        }
        let fitting = |(input, ty): (&Declared, TensorType)| match options.values.get(&*input.name) {
            Some(data) if !inputs::fits(&ty, data) => {
                Err(ImportError::Options(format!("the input `{}` is {ty} in the model, found {} for it", input.name, data.ty())))
            }
            _ => Ok(()),
        };
        declared.iter().filter_map(|input| Some((input, input.ty(options, &bindings).ok()?))).try_for_each(fitting)?;
        for (name, fault) in faults {
            self.fault(fault, None);
            self.scopes.top_mut().names.insert(name, Binding::Broken);
        }
        let mut tensors = declared.iter();
        for (name, form) in forms {
            let binding = match form {
                Form::Nothing => Binding::Is(Operand::Nothing),
                Form::Tensor => {
                    let value = tensors.next().and_then(|input| self.parameter(input, options, &bindings));
                    value.map_or(Binding::Broken, |value| Binding::Is(Operand::Tensor(value)))
                }
                Form::List(length) => {
                    // All of them, so that all problems are seen.
                    let values: Vec<Option<ValueId>> =
                        tensors.by_ref().take(length).map(|input| self.element(name, input, options, &bindings)).collect();
                    let values: Option<Vec<ValueId>> = values.into_iter().collect();
                    values.map_or(Binding::Broken, |values| Binding::Is(Operand::List(values)))
                }
            };
            self.scopes.top_mut().names.insert(name, binding);
        }
        Ok(())
    }

    /// The value of an input; nothing if there can be none, which is noted.
    fn parameter(&mut self, input: &Declared, options: &ImportOptions, bindings: &Bindings) -> Option<ValueId> {
        match (input.ty(options, bindings), options.values.get(&*input.name)) {
            (Ok(_), Some(data)) => Some(self.build.named_constant(&input.name, data.clone(), true)),
            (Ok(ty), None) => Some(self.build.param(&input.name, ty)),
            (Err(fault), _) => {
                self.fault(fault, None);
                None
            }
        }
    }

    /// The same for an element of the sequence `of`, whose name is not in the model.
    fn element(&mut self, of: &str, input: &Declared, options: &ImportOptions, bindings: &Bindings) -> Option<ValueId> {
        if !self.build.reserve(&input.name) {
            let message = format!("`{}` names an element of the input `{of}` and another value", input.name);
            self.problem(Code::Name, message, "give the other value another name");
            return None;
        }
        self.parameter(input, options, bindings)
    }

    // ---- nodes

    /// Imports the nodes that the outputs need.
    fn nodes(&mut self, nodes: &'m [NodeProto], outputs: &[&'m str]) -> Result<(), Box<FileError>> {
        let order: Order<'m> = order(nodes, outputs.iter().copied());
        if !order.cycle.is_empty() {
            let names: Vec<String> = order.cycle.iter().map(|&i| format!("{} ({})", label(&nodes[i], i), nodes[i].op_type)).collect();
            self.problem(
                Code::Cycle,
                format!("nodes wait for each other: {}", listed(&names)),
                "export the model again: a graph must not have cycles",
            );
            let sorted: HashSet<usize> = order.nodes.iter().copied().collect();
            let stuck = nodes.iter().enumerate().filter(|(i, _)| !sorted.contains(i)).flat_map(|(_, n)| &n.output);
            stuck.for_each(|name| drop(self.scopes.top_mut().names.insert(name, Binding::Broken)));
        }
        for &index in &order.nodes {
            self.imported += 1;
            if self.imported > MAX_NODES || self.problems.len() > MAX_PROBLEMS {
                if !self.stopped && self.imported > MAX_NODES {
                    self.problem(
                        Code::Function,
                        format!("the model unfolds into more than {MAX_NODES} nodes"),
                        "flatten its functions before the export",
                    );
                }
                self.stopped = true;
                return Ok(());
            }
            self.node(nodes, index, &order.read)?;
        }
        Ok(())
    }

    /// Imports one node, or notes why that cannot be done.
    fn node(&mut self, nodes: &'m [NodeProto], index: usize, read: &HashSet<&'m str>) -> Result<(), Box<FileError>> {
        let node = &nodes[index];
        let operands = self.operands(nodes, index)?;
        let imported = self.supported(node).and_then(|how| match &operands {
            Some(operands) => self.import_as(how, node, index, operands, read).map(Some),
            None => Ok(None),
        });
        match imported {
            Ok(Some(values)) => self.bind_outputs(node, index, read, &values),
            Ok(None) => self.break_outputs(node),
            Err(Stop::File(error)) => return Err(error),
            Err(Stop::Fault(fault)) => {
                let place = self.place(nodes, index, operands.as_deref().unwrap_or(&[]));
                self.fault(*fault, Some(place));
                self.break_outputs(node);
            }
        }
        Ok(())
    }

    /// The values of a node's inputs; problems with their names are noted.
    fn operands(&mut self, nodes: &'m [NodeProto], index: usize) -> Result<Operands, Box<FileError>> {
        let mut values = vec![];
        let mut whole = true;
        for name in &nodes[index].input {
            match if name.is_empty() { Read::Is(Operand::Nothing) } else { self.read(name)? } {
                Read::Is(operand) => values.push(operand),
                Read::Broken => whole = false,
                Read::Fault(fault) => {
                    whole = false;
                    let place = self.place(nodes, index, &[]);
                    self.fault(fault, Some(place));
                }
            }
        }
        Ok(whole.then_some(values))
    }

    /// What a name stands for.
    fn read(&mut self, name: &'m str) -> Result<Read, Box<FileError>> {
        let fault = |code, message: String, help: &str| {
            Read::Fault(Fault { code, message, attribute: None, data: Box::default(), help: help.into() })
        };
        Ok(match self.scopes.find(name) {
            Some((Binding::Is(operand), depth)) => {
                let operand = operand.clone();
                Read::Is(self.brought_in(name, operand, depth))
            }
            Some((Binding::Broken, _)) => Read::Broken,
            Some((&Binding::Initializer(tensor), depth)) => self.initializer(name, tensor, depth)?,
            Some((Binding::NotProvided(maker), _)) => {
                fault(Code::Operand, format!("`{name}`, an additional output of {maker}, is not supported"), "export the model without it")
            }
            None if self.stopped => Read::Broken,
            None => {
                let near = if self.problems.len() < SUGGESTIONS { did_you_mean(name, self.scopes.names()) } else { None };
                let near = near.map(|s| format!("; did you mean `{s}`?")).unwrap_or_default();
                fault(Code::Name, format!("`{name}` is read, but nothing makes it{near}"), BREAKS_SPECIFICATION)
            }
        })
    }

    /// What stands for values in the region that is open.
    fn brought_in(&mut self, name: &'m str, operand: Operand, depth: usize) -> Operand {
        if depth == self.build.depth() {
            return operand;
        }
        let inner = operand.map(|value| self.build.captured(value, depth));
        self.scopes.bind_in_region(name, Binding::Is(inner.clone()));
        inner
    }

    /// A constant, made where it is read: in a region it is one of the region's own.
    fn initializer(&mut self, name: &'m str, proto: &'m TensorProto, depth: usize) -> Result<Read, Box<FileError>> {
        match self.model.tensor(proto) {
            Ok(tensor) => {
                let (ir_name, reserved) = self.scopes.ir_name(name);
                let value = self.build.named_constant(&ir_name, tensor, reserved);
                let operand = Operand::Tensor(value);
                match depth == self.build.depth() {
                    true => self.scopes.replace(name, Binding::Is(operand.clone())),
                    false => self.scopes.bind_in_region(name, Binding::Is(operand.clone())),
                }
                Ok(Read::Is(operand))
            }
            Err(TensorError::File(error)) => Err(error.into()),
            Err(TensorError::ElementType(message)) => {
                self.scopes.replace(name, Binding::Broken);
                let help = "convert it to another type before the export".into();
                Ok(Read::Fault(Fault {
                    code: Code::ElementType,
                    message: format!("initializer `{name}`: {message}"),
                    attribute: None,
                    data: Box::default(),
                    help,
                }))
            }
        }
    }

    /// How a node's operator is imported; a fault when it is not supported.
    fn supported(&self, node: &'m NodeProto) -> Result<How<'m>, Stop> {
        let domain = domain(&node.domain);
        if let Some(function) = self.functions.get(&(domain, node.op_type.as_str(), node.overload.as_str())) {
            return Ok(How::Function(function));
        }
        let operator = operator(node);
        match operator.as_str() {
            "If" => return Ok(How::If),
            "Loop" => return Ok(How::Loop),
            "Scan" => return Ok(How::Scan),
            "ai.onnx.preview::FlexAttention" => return Ok(How::Flex),
            other if sequence::OPERATORS.contains(&other) => return Ok(How::Sequence),
            _ => {}
        }
        if let Some(importer) = table::importer(&operator) {
            return Ok(How::Table(importer));
        }
        let message = format!("operator `{operator}` (opset {}) is not supported", self.opset(domain));
        let standard = |help: fn(&str) -> Option<&'static str>| if domain.is_empty() { help(&node.op_type) } else { None };
        let help = match (standard(table::unsupported), standard(|op| did_you_mean(op, table::names()))) {
            (Some(help), _) => help.to_string(),
            (None, Some(near)) => format!("did you mean `{near}`?"),
            (None, None) => "replace it by standard operators, or add a function of this name to the model".to_string(),
        };
        Err(fault(Code::Operator, message, help))
    }

    fn opset(&self, domain: &str) -> i64 {
        let own = self.scopes.top().opsets.get(domain);
        own.copied().unwrap_or(if domain.is_empty() { NEWEST_OPSET } else { 1 })
    }

    fn import_as(
        &mut self,
        how: How<'m>,
        node: &'m NodeProto,
        index: usize,
        given: &[Operand],
        read: &HashSet<&'m str>,
    ) -> Result<Vec<Binding<'m>>, Stop> {
        let wanted: Vec<bool> = node.output.iter().map(|o| read.contains(o.as_str())).collect();
        let attributes = self.attributes(node);
        if let How::Function(function) = how {
            return self.call(function, node, index, given, &wanted, attributes);
        }
        let operands: Vec<Option<ValueId>> = given.iter().map(Operand::tensor).collect();
        match how {
            How::Table(importer) if operator(node) != "Identity" || operands.iter().all(Option::is_some) => {
                only_tensors(node, given)?;
                let values = self.by_table(importer, node, index, &operands, wanted, attributes)?;
                Ok(values.into_iter().map(|value| Binding::Is(Operand::Tensor(value))).collect())
            }
            _ => self.holder(&how, &control::Holder { node, index, operands: &operands, given, wanted: &wanted, attributes }),
        }
    }

    fn by_table(
        &mut self,
        importer: &table::Importer,
        node: &'m NodeProto,
        index: usize,
        operands: &[Option<ValueId>],
        wanted: Vec<bool>,
        attributes: HashMap<&'m str, &'m AttributeProto>,
    ) -> Outcome {
        let opset = self.opset("");
        let stem = node.output.iter().find(|o| !o.is_empty()).map_or_else(|| self.label(node, index).into(), |o| self.scopes.ir_name(o).0);
        let origin = self.label(node, index);
        self.build.start_node(&origin, &stem);
        let mut site = Site::new(&mut self.build, self.model, &node.op_type, opset, operands.to_vec(), wanted, attributes);
        let values = match importer {
            table::Importer::By(import) => import(&mut site)?,
            table::Importer::Same(op) => {
                let operands = (0..op.def().operands.len()).map(|i| site.input(i)).collect::<Result<Vec<ValueId>, Stop>>()?;
                site.ops(op.clone(), &operands)?
            }
        };
        if let Some(input) = site.ignored_input() {
            let help = if opset > NEWEST_OPSET { NEWER } else { BREAKS_SPECIFICATION };
            return Err(fault(Code::Operand, format!("`{}` does not take an input {input} (counted from 0)", node.op_type), help));
        }
        for name in site.ignored_attributes() {
            let help = match domain(&node.domain) {
                _ if opset > NEWEST_OPSET => Some(NEWER),
                "" => None,
                _ => Some("change the operator in the model before the export"),
            };
            if let Some(help) = help {
                let message = format!("attribute `{name}` of `{}` is not known, and may change what it means", node.op_type);
                return Err(fault(Code::Attribute, message, help));
            }
            if self.warned.insert((node.op_type.clone(), name.to_string())) {
                self.warnings.push(Warning {
                    message: format!("attribute `{name}` of `{}` (node `{origin}`) is not known and left out", node.op_type),
                });
            }
        }
        Ok(values)
    }

    /// The attributes of a node; those that stand for an attribute of the function around it have its value.
    fn attributes(&self, node: &'m NodeProto) -> HashMap<&'m str, &'m AttributeProto> {
        let outer = &self.scopes.top().attributes;
        let value = |a: &'m AttributeProto| if a.ref_attr_name.is_empty() { Some(a) } else { outer.get(a.ref_attr_name.as_str()).copied() };
        node.attribute.iter().filter_map(|a| Some((a.name.as_str(), value(a)?))).collect()
    }

    /// Imports the body of a function in place of a call of it.
    fn call(
        &mut self,
        function: &'m FunctionProto,
        node: &'m NodeProto,
        index: usize,
        operands: &[Operand],
        wanted: &[bool],
        given: HashMap<&'m str, &'m AttributeProto>,
    ) -> Result<Vec<Binding<'m>>, Stop> {
        self.check_depth(&function.name)?;
        if self.calls.contains(&std::ptr::from_ref(function)) {
            return Err(fault(
                Code::Function,
                format!("function `{}` calls itself", function.name),
                "export the model again: functions of a model must not be recursive",
            ));
        }
        if operands.len() > function.input.len() {
            return Err(malformed(
                Code::Operand,
                format!("function `{}` has {} inputs, found {}", function.name, function.input.len(), operands.len()),
            ));
        }
        let mut attributes: HashMap<&str, &AttributeProto> = function.attribute_proto.iter().map(|a| (a.name.as_str(), a)).collect();
        attributes.extend(given);
        let binding = |operand: Option<&Operand>| Binding::Is(operand.cloned().unwrap_or(Operand::Nothing));
        let names = function.input.iter().enumerate().map(|(i, name)| (name.as_str(), binding(operands.get(i)))).collect();
        let pairs = || {
            function
                .output
                .iter()
                .zip(&node.output)
                .zip(wanted)
                .filter(|(_, wanted)| **wanted)
                .map(|((inner, outer), _)| (inner.as_str(), outer.as_str()))
        };
        let scope = Scope {
            names,
            prefix: format!("{}/", self.label(node, index)),
            outer_names: pairs().map(|(inner, outer)| (inner, self.scopes.ir_name(outer))).collect(),
            closed: true,
            attributes,
            opsets: opsets(&function.opset_import),
            depth: self.build.depth(),
        };
        self.scopes.push(scope);
        self.calls.push(function);
        let outputs: Vec<&str> = function
            .output
            .iter()
            .zip(wanted.iter().chain(std::iter::repeat(&false)))
            .map(|(o, w)| if *w { o.as_str() } else { "" })
            .collect();
        let results = self.body(&function.node, &outputs);
        self.calls.pop();
        self.scopes.pop();
        results
    }

    /// Imports nodes into the current scope, and gives what its outputs stand for; empty names are outputs nobody reads.
    fn body(&mut self, nodes: &'m [NodeProto], outputs: &[&'m str]) -> Result<Vec<Binding<'m>>, Stop> {
        let read: Vec<&str> = outputs.iter().copied().filter(|o| !o.is_empty()).collect();
        self.nodes(nodes, &read).map_err(Stop::File)?;
        let mut results = vec![];
        for name in outputs {
            results.push(match name.is_empty() {
                true => Binding::Is(Operand::Nothing),
                false => match self.read(name).map_err(Stop::File)? {
                    Read::Is(operand) => Binding::Is(operand),
                    Read::Broken => Binding::Broken,
                    Read::Fault(fault) => return Err(fault.into()),
                },
            });
        }
        Ok(results)
    }

    fn check_depth(&self, what: &str) -> Result<(), Stop> {
        if self.scopes.depth() < MAX_GRAPHS {
            return Ok(());
        }
        Err(fault(
            Code::Function,
            format!("`{what}` is nested more than {MAX_GRAPHS} deep"),
            "flatten the functions of the model before the export",
        ))
    }

    // ---- after a node

    fn bind_outputs(&mut self, node: &'m NodeProto, index: usize, read: &HashSet<&'m str>, values: &[Binding<'m>]) {
        for (i, name) in node.output.iter().enumerate().filter(|(_, name)| !name.is_empty() && read.contains(name.as_str())) {
            let binding = match values.get(i) {
                Some(binding) => binding.clone(),
                None => Binding::NotProvided(format!("node {} ({})", self.label_quoted(node, index), operator(node))),
            };
            if let Binding::Is(operand) = &binding {
                let (ir_name, reserved) = self.scopes.ir_name(name);
                self.build.name_outputs(operand, &ir_name, reserved);
            }
            self.scopes.top_mut().names.insert(name, binding);
        }
    }

    fn break_outputs(&mut self, node: &'m NodeProto) {
        node.output.iter().for_each(|name| drop(self.scopes.top_mut().names.insert(name, Binding::Broken)));
    }

    /// The node's name in the IR: with the calls it stands in, and made up from operator and position if it has none.
    fn label(&self, node: &NodeProto, index: usize) -> String {
        let prefix = &self.scopes.top().prefix;
        if node.name.is_empty() { format!("{prefix}{}_{index}", node.op_type) } else { format!("{prefix}{}", node.name) }
    }

    fn label_quoted(&self, node: &NodeProto, index: usize) -> String {
        if node.name.is_empty() { format!("#{}", index + 1) } else { format!("`{}`", self.label(node, index)) }
    }

    /// A node as messages show it.
    fn place(&self, nodes: &[NodeProto], index: usize, operands: &[Operand]) -> Place {
        let node = &nodes[index];
        let domain = domain(&node.domain);
        let ty = |i: usize| operands.get(i).and_then(Operand::tensor).map(|v| self.build.graph.ty(v).clone());
        let words = |i: usize| format!("{} ({})", label(&nodes[i], i), operator(&nodes[i]));
        let first = node.input.iter().find(|i| !i.is_empty());
        let before = first.map(|name| nodes.iter().position(|n| n.output.contains(name)).map_or_else(|| name.clone(), words));
        let output = node.output.iter().find(|o| !o.is_empty());
        let after = output.map(|name| nodes.iter().position(|n| n.input.contains(name)).map_or_else(|| name.clone(), words));
        Place {
            node: if node.name.is_empty() { String::new() } else { self.label(node, index) },
            number: index + 1,
            count: nodes.len(),
            operator: operator(node),
            domain: domain.to_string(),
            opset: self.opset(domain),
            inputs: node.input.iter().enumerate().map(|(i, name)| (name.clone(), ty(i))).collect(),
            outputs: node.output.clone(),
            before: before.unwrap_or_default(),
            after: after.unwrap_or_default(),
        }
    }

    // ---- after the nodes

    fn results(&mut self, graph: &'m GraphProto) -> Result<(), Box<FileError>> {
        if graph.output.is_empty() {
            self.problem(Code::Name, "the graph has no outputs, so there is nothing to compute", "export the model with its outputs");
        }
        let mut seen = HashSet::new();
        for output in &graph.output {
            if !seen.insert(output.name.clone()) {
                self.problem(Code::Name, format!("output `{}` is named twice", output.name), "give every output its own name");
            }
            if output.name.is_empty() {
                self.problem(Code::Name, "an output of the graph has no name", BREAKS_SPECIFICATION);
                continue;
            }
            match self.read(&output.name)? {
                Read::Is(operand) => self.result(output, &operand, &mut seen),
                Read::Broken => {}
                Read::Fault(fault) => self.fault(fault, None),
            }
        }
        Ok(())
    }

    /// An output of the model: a tensor, or those of a sequence under names of their own.
    fn result(&mut self, output: &ValueInfoProto, operand: &Operand, seen: &mut HashSet<String>) {
        let name = &output.name;
        match operand {
            Operand::Tensor(value) => {
                self.build.graph.add_result(*value, name);
                let message = contradiction(&output.type_, name, self.build.graph.ty(*value));
                self.warnings.extend(message.map(|message| Warning { message }));
            }
            Operand::List(values) => {
                for (value, name) in values.iter().zip(inputs::elements(name)) {
                    if !seen.insert(name.clone()) {
                        self.problem(Code::Name, format!("two outputs are named `{name}`"), "give every output its own name");
                    }
                    self.build.graph.add_result(*value, &name);
                }
            }
            Operand::Nothing if inputs::is_optional(&output.type_) => {
                self.warnings
                    .push(Warning { message: format!("the optional output `{name}` is empty, and no output of what is compiled") });
            }
            Operand::Nothing => self.problem(Code::Name, format!("output `{name}` is not made"), BREAKS_SPECIFICATION),
        }
    }

    fn finish(self, graph: &'m GraphProto) -> Result<Import, ImportError> {
        if !self.problems.is_empty() {
            return Err(ImportError::Unsupported(self.problems));
        }
        let proto = &self.model.proto;
        let mut ops = BTreeMap::new();
        count_operators(graph, &mut ops);
        let elements = |t: &TensorProto| t.dims.iter().try_fold(1u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?)).unwrap_or(0);
        let summary = Summary {
            producer: format!("{} {}", proto.producer_name, proto.producer_version).trim().to_string(),
            ir_version: proto.ir_version,
            opset: self.scopes.top().opsets.get("").copied().unwrap_or(0),
            domains: proto.opset_import.iter().map(|o| (o.domain.clone(), o.version)).collect(),
            ops,
            parameters: graph.initializer.iter().map(elements).sum(),
        };
        let draws = self.build.draws();
        let mut warnings = self.warnings;
        if draws > 0 {
            let nodes = counted(draws as usize, "node");
            let message = format!(
                "random numbers are drawn by {nodes}: compiled code draws the same ones in every run, by their seeds or a fixed one"
            );
            warnings.push(Warning { message });
        }
        Ok(Import { graph: self.build.graph, warnings, summary, draws })
    }
}

/// What a name stands for when it is read.
enum Read {
    Is(Operand),
    /// The result of something that has been reported.
    Broken,
    /// Something to report.
    Fault(Fault),
}

/// How a node is imported.
enum How<'m> {
    Table(&'static table::Importer),
    Function(&'m FunctionProto),
    If,
    Loop,
    Scan,
    Flex,
    Sequence,
}

/// An operator of tensors takes no sequences.
fn only_tensors(node: &NodeProto, given: &[Operand]) -> Result<(), Stop> {
    match given.iter().position(|operand| matches!(operand, Operand::List(_))) {
        Some(input) => {
            let message = format!("input {input} of `{}` (counted from 0) is {}, expected a tensor", node.op_type, given[input]);
            Err(malformed(Code::ValueKind, message))
        }
        None => Ok(()),
    }
}

/// The operator with its domain, unless that is the standard one.
pub(crate) fn operator(node: &NodeProto) -> String {
    match domain(&node.domain) {
        "" => node.op_type.clone(),
        domain => format!("{domain}::{}", node.op_type),
    }
}

/// The node's name, or its position from 1.
pub(crate) fn label(node: &NodeProto, index: usize) -> String {
    if node.name.is_empty() { format!("#{}", index + 1) } else { node.name.clone() }
}

/// How often each operator stands in a graph and its subgraphs.
fn count_operators(graph: &GraphProto, counts: &mut BTreeMap<String, usize>) {
    for node in &graph.node {
        *counts.entry(operator(node)).or_default() += 1;
        node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).for_each(|g| count_operators(g, counts));
    }
}
