//! Changes models as messages, not as bytes, so that what is wrong with them lies deeper than the parser.
//!
//! **Invariant.** A mutant depends on the models, the seed and nothing else.
//!
//! ```text
//! drop        an input, an output, a node, an attribute, an initializer, a type
//! exchange    operators, attributes, types, tensors, inputs of two nodes
//! push        extents, indices and attributes to the ends of their ranges
//! rewire      a name to nothing, to a later node (a cycle), to a function, to another graph
//! damage      the data of a tensor: cut off, extended, moved to a file
//! ```

use super::random::Random;
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::type_proto;
use onnx_protobuf::{AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto};
use protobuf::MessageField;

/// Numbers at which arithmetic on extents and indices goes wrong.
const ENDS: [i64; 18] = [
    0,
    1,
    -1,
    2,
    -2,
    3,
    1000,
    i64::MIN,
    i64::MIN + 1,
    i64::MAX,
    i64::MAX - 1,
    i32::MAX as i64,
    i32::MIN as i64,
    1 << 20,
    1 << 31,
    1 << 33,
    1 << 53,
    1 << 62,
];

/// The same for floats.
const FLOAT_ENDS: [f32; 10] = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, f32::MAX, f32::MIN, f32::INFINITY, f32::NAN];

/// One to four changes of a model; parts of `others` may get into it.
pub fn mutate(model: &mut ModelProto, others: &[ModelProto], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let graph_change = GRAPH_CHANGES[random.below(GRAPH_CHANGES.len())];
        match random.below(12) {
            0 => change_header(model, random),
            1 => graft(model, others, random),
            _ => with_graph(model, random, graph_change),
        }
    }
}

type GraphChange = fn(&mut GraphProto, &mut Random);

const GRAPH_CHANGES: [GraphChange; 12] = [
    drop_part,
    drop_of_node,
    duplicate,
    exchange_operators,
    exchange_attributes,
    push_attribute,
    push_extent,
    push_tensor,
    rewire,
    rename,
    change_type,
    damage_tensor,
];

/// Applies a change to the main graph, the body of a function, or the graph of an attribute.
fn with_graph(model: &mut ModelProto, random: &mut Random, change: GraphChange) {
    if !model.functions.is_empty() && random.below(4) == 0 {
        let chosen = random.below(model.functions.len());
        let function = &mut model.functions[chosen];
        let mut body = GraphProto { node: std::mem::take(&mut function.node), ..Default::default() };
        change(inner(&mut body, random), random);
        function.node = body.node;
        return;
    }
    if let Some(graph) = model.graph.as_mut() {
        change(inner(graph, random), random);
    }
}

/// A graph of an attribute, some of the time, at any depth.
fn inner<'a>(graph: &'a mut GraphProto, random: &mut Random) -> &'a mut GraphProto {
    let holds = |node: &NodeProto| node.attribute.iter().any(|attribute| attribute.g.is_some());
    let holders: Vec<usize> = (0..graph.node.len()).filter(|&i| holds(&graph.node[i])).collect();
    match random.one(&holders) {
        Some(&i) if random.below(2) == 0 => {
            let attribute = graph.node[i].attribute.iter_mut().find(|attribute| attribute.g.is_some()).expect("it holds one");
            inner(attribute.g.mut_or_insert_default(), random)
        }
        _ => graph,
    }
}

fn change_header(model: &mut ModelProto, random: &mut Random) {
    match random.below(6) {
        0 => model.ir_version = ENDS[random.below(ENDS.len())],
        1 => model.opset_import.clear(),
        2 => model.functions.clear(),
        3 => model.functions.extend(model.functions.first().cloned()),
        4 => {
            if let Some(opset) = random.one_mut(&mut model.opset_import) {
                opset.version = [0, 1, 6, 7, 9, 11, 13, 17, 18, 21, 23, 28, 29, 1000, -1, i64::MAX][random.below(16)];
            }
        }
        _ => call_itself(model, random),
    }
}

/// A node becomes a call of a function of the model, which may be the one it stands in.
fn call_itself(model: &mut ModelProto, random: &mut Random) {
    let Some((name, domain)) = random.one(&model.functions).map(|function| (function.name.clone(), function.domain.clone())) else {
        return;
    };
    with_graph(model, random, |graph, random| random.one_mut(&mut graph.node).into_iter().for_each(|node| node.op_type.clear()));
    let in_functions = model.functions.iter_mut().flat_map(|function| &mut function.node);
    let nodes = model.graph.mut_or_insert_default().node.iter_mut().chain(in_functions);
    for node in nodes.filter(|node| node.op_type.is_empty()) {
        (node.op_type, node.domain) = (name.clone(), domain.clone());
    }
}

/// A node, an attribute or a tensor of another model.
fn graft(model: &mut ModelProto, others: &[ModelProto], random: &mut Random) {
    let Some(other) = random.one(others) else { return };
    let Some(graph) = model.graph.as_mut() else { return };
    match random.below(4) {
        0 => model.functions.extend(random.one(&other.functions).cloned()),
        1 => graph.initializer.extend(random.one(&other.graph.initializer).cloned()),
        2 => {
            if let Some(node) = random.one(&other.graph.node) {
                let mut node = node.clone();
                let (inputs, outputs) = (names(graph), graph.output.clone());
                node.input.iter_mut().for_each(|input| *input = random.one(&inputs).cloned().unwrap_or_default());
                if let (Some(output), Some(named)) = (node.output.first_mut(), random.one(&outputs)) {
                    graph.node.retain(|node| !node.output.contains(&named.name));
                    output.clone_from(&named.name);
                }
                graph.node.push(node);
            }
        }
        _ => {
            let attribute = random.one(&other.graph.node).and_then(|node| node.attribute.first()).cloned();
            if let (Some(attribute), Some(node)) = (attribute, random.one_mut(&mut graph.node)) {
                node.attribute.retain(|own| own.name != attribute.name);
                node.attribute.push(attribute);
            }
        }
    }
}

/// All names that a graph makes.
fn names(graph: &GraphProto) -> Vec<String> {
    let made = graph.node.iter().flat_map(|node| &node.output);
    let given = graph.input.iter().map(|input| &input.name).chain(graph.initializer.iter().map(|tensor| &tensor.name));
    made.chain(given).cloned().collect()
}

fn remove<T>(items: &mut Vec<T>, random: &mut Random) {
    if !items.is_empty() {
        items.remove(random.below(items.len()));
    }
}

fn drop_part(graph: &mut GraphProto, random: &mut Random) {
    match random.below(6) {
        0 => remove(&mut graph.node, random),
        1 => remove(&mut graph.input, random),
        2 => remove(&mut graph.output, random),
        3 => remove(&mut graph.initializer, random),
        4 => random.one_mut(&mut graph.input).into_iter().for_each(|input| input.type_ = MessageField::none()),
        _ => graph.output.iter_mut().for_each(|output| output.type_ = MessageField::none()),
    }
}

fn drop_of_node(graph: &mut GraphProto, random: &mut Random) {
    let Some(node) = random.one_mut(&mut graph.node) else { return };
    match random.below(7) {
        0 => remove(&mut node.input, random),
        1 => remove(&mut node.output, random),
        2 => remove(&mut node.attribute, random),
        3 => node.input.clear(),
        4 => node.output.clear(),
        5 => node.attribute.clear(),
        _ => random.one_mut(&mut node.input).into_iter().for_each(String::clear),
    }
}

fn duplicate(graph: &mut GraphProto, random: &mut Random) {
    match random.below(4) {
        0 => graph.node.extend(random.one(&graph.node).cloned()),
        1 => graph.initializer.extend(random.one(&graph.initializer).cloned()),
        2 => graph.input.extend(random.one(&graph.input).cloned()),
        _ => {
            if let Some(node) = random.one_mut(&mut graph.node) {
                let copies = [1, 2, 40][random.below(3)];
                let inputs = node.input.clone();
                (0..copies).for_each(|_| node.input.extend(inputs.iter().cloned()));
            }
        }
    }
}

fn exchange_operators(graph: &mut GraphProto, random: &mut Random) {
    let Some(other) = random.one(&graph.node).map(|node| (node.op_type.clone(), node.domain.clone())) else { return };
    let listed = ["If", "Loop", "Scan", "Reshape", "Slice", "Pad", "Concat", "Range", "Tile", "Expand", "TopK", "Split", "Resize", "LSTM"];
    let Some(node) = random.one_mut(&mut graph.node) else { return };
    (node.op_type, node.domain) = match random.below(2) {
        0 => other,
        _ => (listed[random.below(listed.len())].to_string(), String::new()),
    };
}

fn exchange_attributes(graph: &mut GraphProto, random: &mut Random) {
    let Some(other) = random.one(&graph.node).and_then(|node| node.attribute.first()).cloned() else { return };
    let Some(attribute) = random.one_mut(&mut graph.node).and_then(|node| random.one_mut(&mut node.attribute)) else { return };
    let name = attribute.name.clone();
    *attribute = other;
    if random.below(2) == 0 {
        attribute.name = name;
    }
}

fn push_attribute(graph: &mut GraphProto, random: &mut Random) {
    let Some(attribute) = random.one_mut(&mut graph.node).and_then(|node| random.one_mut(&mut node.attribute)) else { return };
    let end = ENDS[random.below(ENDS.len())];
    match random.below(8) {
        0 => attribute.ints.push(end),
        1 => remove(&mut attribute.ints, random),
        2 => attribute.type_ = [AttributeType::INT, AttributeType::INTS, AttributeType::TENSOR][random.below(3)].into(),
        3 => attribute.ref_attr_name = "alpha".to_string(),
        4 => attribute.s = [&b""[..], b"SAME_UPPER", b"reverse", b"\xff\xfe", b"ij,jk->ik", b"...->"][random.below(6)].to_vec(),
        _ => push_numbers(attribute, end, random),
    }
}

fn push_numbers(attribute: &mut AttributeProto, end: i64, random: &mut Random) {
    attribute.i = end;
    attribute.f = FLOAT_ENDS[random.below(FLOAT_ENDS.len())];
    random.one_mut(&mut attribute.ints).into_iter().for_each(|number| *number = end);
    random.one_mut(&mut attribute.floats).into_iter().for_each(|number| *number = attribute.f);
    attribute.t.as_mut().into_iter().for_each(|tensor| push_elements(tensor, end));
}

/// Extents of inputs and outputs.
fn push_extent(graph: &mut GraphProto, random: &mut Random) {
    let ports = if random.below(4) == 0 { &mut graph.output } else { &mut graph.input };
    let Some(dims) = random.one_mut(ports).and_then(extents) else { return };
    let words = ["", "N", "2*N", "N+", "9999999999999999999*N", "batch", "-N", "N*N*N*N*N*N*N*N", "x.0", "((((N"];
    let value = match random.below(3) {
        0 => dimension::Value::DimParam(words[random.below(words.len())].to_string()),
        _ => dimension::Value::DimValue(ENDS[random.below(ENDS.len())]),
    };
    match random.below(6) {
        0 => dims.clear(),
        1 => dims.push(Dimension { value: Some(value), ..Default::default() }),
        2 => dims.resize([0, 1, 7, 300][random.below(4)], Dimension { value: Some(value), ..Default::default() }),
        _ => random.one_mut(dims).into_iter().for_each(|dim| dim.value = Some(value.clone())),
    }
}

fn extents(port: &mut ValueInfoProto) -> Option<&mut Vec<Dimension>> {
    match port.type_.as_mut()?.value.as_mut()? {
        type_proto::Value::TensorType(tensor) => Some(&mut tensor.shape.mut_or_insert_default().dim),
        _ => None,
    }
}

/// The shape or the elements of an initializer.
fn push_tensor(graph: &mut GraphProto, random: &mut Random) {
    let Some(tensor) = random.one_mut(&mut graph.initializer) else { return };
    let end = ENDS[random.below(ENDS.len())];
    match random.below(4) {
        0 => random.one_mut(&mut tensor.dims).into_iter().for_each(|dim| *dim = end),
        1 => tensor.dims = vec![1; [0, 1, 5, 300][random.below(4)]],
        _ => push_elements(tensor, end),
    }
}

/// All elements become one end of their range.
fn push_elements(tensor: &mut TensorProto, end: i64) {
    tensor.int64_data.iter_mut().for_each(|element| *element = end);
    tensor.int32_data.iter_mut().for_each(|element| *element = end as i32);
    tensor.float_data.iter_mut().for_each(|element| *element = end as f32);
    let bytes = end.to_le_bytes();
    tensor.raw_data.iter_mut().enumerate().for_each(|(i, byte)| *byte = bytes[i % 8]);
}

/// An input becomes another name: one of the graph, so that a cycle may come of it, or one that stands for nothing.
fn rewire(graph: &mut GraphProto, random: &mut Random) {
    let mut names = names(graph);
    names.extend(["nowhere".to_string(), String::new()]);
    let last = graph.node.last().and_then(|node| node.output.first()).cloned().unwrap_or_default();
    let Some(input) = random.one_mut(&mut graph.node).and_then(|node| random.one_mut(&mut node.input)) else { return };
    *input = if random.below(3) == 0 { last } else { names[random.below(names.len())].clone() };
}

fn rename(graph: &mut GraphProto, random: &mut Random) {
    let names = names(graph);
    let name = random.one(&names).cloned().unwrap_or_default();
    match random.below(4) {
        0 => random.one_mut(&mut graph.output).into_iter().for_each(|output| output.name.clone_from(&name)),
        1 => random.one_mut(&mut graph.initializer).into_iter().for_each(|tensor| tensor.name.clone_from(&name)),
        2 => random.one_mut(&mut graph.input).into_iter().for_each(|input| input.name.clone_from(&name)),
        _ => {
            let output = random.one_mut(&mut graph.node).and_then(|node| random.one_mut(&mut node.output));
            output.into_iter().for_each(|output| output.clone_from(&name));
        }
    }
}

fn change_type(graph: &mut GraphProto, random: &mut Random) {
    let dtype = [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 14, 16, 17, 21, 22, 23, 25, 99, -1][random.below(19)];
    if random.below(2) == 0 {
        random.one_mut(&mut graph.initializer).into_iter().for_each(|tensor| tensor.data_type = dtype);
        return;
    }
    let Some(input) = random.one_mut(&mut graph.input) else { return };
    if let Some(type_proto::Value::TensorType(tensor)) = input.type_.mut_or_insert_default().value.as_mut() {
        tensor.elem_type = dtype;
    }
}

fn damage_tensor(graph: &mut GraphProto, random: &mut Random) {
    let Some(tensor) = random.one_mut(&mut graph.initializer) else { return };
    match random.below(6) {
        0 => tensor.raw_data = vec![0; [0, 1, 7, 4096][random.below(4)]],
        1 => tensor.int64_data.clear(),
        2 => tensor.float_data.truncate(1),
        3 => tensor.int64_data.push(7),
        4 => tensor.segment = MessageField::some(Default::default()),
        _ => {
            tensor.data_location = DataLocation::EXTERNAL.into();
            let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value, ..Default::default() };
            let location = ["/etc/passwd", "../secret", "", "w.bin"][random.below(4)].to_string();
            let offset = ENDS[random.below(ENDS.len())].to_string();
            tensor.external_data = vec![entry("location", location), entry("offset", offset.clone()), entry("length", offset)];
        }
    }
}
