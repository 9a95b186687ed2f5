//! Reads ONNX's textual syntax (as `onnx.parser` has it, as far as the tests need it) into a model.
//!
//! ```text
//! <ir_version: 10, opset_import: ["" : 17]>
//! main (float[N, 3] x) => (float[N, 2] y) <float[3, 2] w = {0.5}> {
//!     [fc] h = MatMul (x, w)
//!     y = LeakyRelu <alpha = 0.2> (h)
//! }
//! <domain: "local", opset_import: ["" : 17]>
//! twice <factor> (a) => (b) { b = Mul (a, a) }
//! ```
//!
//! One number in braces fills a whole tensor. Text that is wrong panics: it is part of a test.

#![allow(dead_code)] // Each test binary uses a part of it.

pub mod mutate;
pub mod random;

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};
use protobuf::MessageField;

/// The model that a text describes.
pub fn model(text: &str) -> ModelProto {
    let mut reader = Reader { tokens: tokens(text), at: 0 };
    let mut model = ModelProto { ir_version: 10, producer_name: "text".into(), ..Default::default() };
    for (key, opsets) in reader.header() {
        match key.as_str() {
            "opset_import" => model.opset_import = opsets,
            "ir_version" => {}
            other => panic!("unknown header `{other}`"),
        }
    }
    model.graph = MessageField::some(reader.graph());
    while !reader.ended() {
        model.functions.push(reader.function());
    }
    model
}

/// The bytes of the model that a text describes.
pub fn bytes(text: &str) -> Vec<u8> {
    model(text).write_to_bytes().expect("a model can be written")
}

const TYPES: [(&str, i32); 12] = [
    ("float", 1),
    ("uint8", 2),
    ("int8", 3),
    ("int32", 6),
    ("int64", 7),
    ("string", 8),
    ("bool", 9),
    ("float16", 10),
    ("double", 11),
    ("uint32", 12),
    ("uint64", 13),
    ("bfloat16", 16),
];

fn tokens(text: &str) -> Vec<String> {
    let mut found = vec![];
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_alphanumeric() || "_./:?*-+".contains(c);
        let length = match first {
            '#' => {
                rest = rest.split_once('\n').map_or("", |(_, r)| r).trim_start();
                continue;
            }
            '"' => rest[1..].find('"').expect("a closing quote") + 2,
            '=' if rest.starts_with("=>") => 2,
            c if word(c) && c != ':' => rest.find(|c| !word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        // A colon ends the key before it.
        let token = if length > 1 && first != '"' { rest[..length].trim_end_matches(':') } else { &rest[..length] };
        found.push(token.to_string());
        rest = rest[token.len()..].trim_start();
    }
    found
}

struct Reader {
    tokens: Vec<String>,
    at: usize,
}

impl Reader {
    fn ended(&self) -> bool {
        self.at == self.tokens.len()
    }

    fn peek(&self) -> &str {
        self.tokens.get(self.at).map_or("", String::as_str)
    }

    fn next(&mut self) -> String {
        self.at += 1;
        self.tokens.get(self.at - 1).expect("more text").clone()
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.peek() == token;
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, token: &str) {
        assert!(
            self.eat(token),
            "expected `{token}`, found `{}` after {:?}",
            self.peek(),
            &self.tokens[self.at.saturating_sub(5)..self.at]
        );
    }

    /// Items up to `close`, separated by commas.
    fn list<T>(&mut self, close: &str, mut item: impl FnMut(&mut Reader) -> T) -> Vec<T> {
        let mut items = vec![];
        while !self.eat(close) {
            items.push(item(self));
            if !self.eat(",") {
                self.expect(close);
                break;
            }
        }
        items
    }

    /// `<domain: "x", opset_import: ["" : 17, "com.acme" : 1]>`; keys other than `opset_import` carry their text as a domain.
    fn header(&mut self) -> Vec<(String, Vec<OperatorSetIdProto>)> {
        self.expect("<");
        self.list(">", |r| {
            let key = r.next();
            r.expect(":");
            let opset = |r: &mut Reader| {
                let domain = unquoted(&r.next());
                r.expect(":");
                OperatorSetIdProto { domain, version: r.next().parse().expect("a version"), ..Default::default() }
            };
            let value = if r.eat("[") {
                r.list("]", opset)
            } else {
                vec![OperatorSetIdProto { domain: unquoted(&r.next()), ..Default::default() }]
            };
            (key, value)
        })
    }

    /// `name (inputs) => (outputs) <initializers> { nodes }`
    fn graph(&mut self) -> GraphProto {
        let name = self.next();
        self.expect("(");
        let input = self.list(")", |r| r.value().0);
        self.expect("=>");
        self.expect("(");
        let output = self.list(")", |r| r.value().0);
        let initializer = if self.eat("<") { self.list(">", |r| r.value().1.expect("an initial value")) } else { vec![] };
        GraphProto { name, input, output, initializer, node: self.nodes(), ..Default::default() }
    }

    fn function(&mut self) -> FunctionProto {
        let mut function = FunctionProto::default();
        for (key, value) in self.header() {
            match key.as_str() {
                "domain" => function.domain = value[0].domain.clone(),
                "opset_import" => function.opset_import = value,
                other => panic!("unknown header `{other}`"),
            }
        }
        function.name = self.next();
        if self.eat("<") {
            self.list(">", |r| {
                if r.tokens[r.at + 1] == "=" { function.attribute_proto.push(r.attribute()) } else { function.attribute.push(r.next()) }
            });
        }
        self.expect("(");
        function.input = self.list(")", Reader::next);
        self.expect("=>");
        self.expect("(");
        function.output = self.list(")", Reader::next);
        function.node = self.nodes();
        function
    }

    fn nodes(&mut self) -> Vec<NodeProto> {
        self.expect("{");
        let mut nodes = vec![];
        while !self.eat("}") {
            nodes.push(self.node());
        }
        nodes
    }

    /// `[name] y, z = domain.Op <attributes> (a, , b)`
    fn node(&mut self) -> NodeProto {
        let mut node = NodeProto::default();
        if self.eat("[") {
            node.name = unquoted(&self.next());
            self.expect("]");
        }
        while !self.eat("=") {
            node.output.push(if self.peek() == "," { String::new() } else { unquoted(&self.next()) });
            self.eat(",");
        }
        let op = self.next();
        let (domain, name) = op.rsplit_once('.').unwrap_or(("", &op));
        (node.domain, node.op_type) = (domain.to_string(), name.to_string());
        if self.eat("<") {
            node.attribute = self.list(">", Reader::attribute);
        }
        self.expect("(");
        while !self.eat(")") {
            node.input.push(if self.peek() == "," { String::new() } else { unquoted(&self.next()) });
            self.eat(",");
        }
        node
    }

    /// `alpha = 0.5`, `axes = [0, 1]`, `mode = "x"`, `alpha : float = @outer`, `value = float[2] {1, 2}`, `body = g () => () {}`
    fn attribute(&mut self) -> AttributeProto {
        let mut attribute = AttributeProto { name: self.next(), ..Default::default() };
        if self.eat(":") {
            attribute.type_ = match self.next().as_str() {
                "float" => AttributeType::FLOAT,
                "int" => AttributeType::INT,
                "ints" => AttributeType::INTS,
                other => panic!("unknown attribute type `{other}`"),
            }
            .into();
        }
        self.expect("=");
        if self.eat("@") {
            attribute.ref_attr_name = self.next();
            return attribute;
        }
        let type_ = if self.eat("[") {
            let items = self.list("]", Reader::next);
            match items.first().map_or("0", String::as_str) {
                text if text.starts_with('"') => {
                    attribute.strings = items.iter().map(|s| unquoted(s).into_bytes()).collect();
                    AttributeType::STRINGS
                }
                _ if items.iter().all(|i| i.parse::<i64>().is_ok()) => {
                    attribute.ints = items.iter().map(|i| i.parse().expect("an integer")).collect();
                    AttributeType::INTS
                }
                _ => {
                    attribute.floats = items.iter().map(|i| i.parse().expect("a number")).collect();
                    AttributeType::FLOATS
                }
            }
        } else if TYPES.iter().any(|(name, _)| *name == self.peek()) {
            attribute.t = MessageField::some(self.tensor());
            AttributeType::TENSOR
        } else if self.tokens.get(self.at + 1).is_some_and(|t| t == "(") {
            attribute.g = MessageField::some(self.graph());
            AttributeType::GRAPH
        } else {
            let value = self.next();
            if value.starts_with('"') {
                attribute.s = unquoted(&value).into_bytes();
                AttributeType::STRING
            } else if let Ok(value) = value.parse() {
                attribute.i = value;
                AttributeType::INT
            } else {
                attribute.f = value.parse().expect("a number");
                AttributeType::FLOAT
            }
        };
        attribute.type_ = type_.into();
        attribute
    }

    /// `float[2] {1, 2}`
    fn tensor(&mut self) -> TensorProto {
        let element = self.element();
        let shape = self.shape().unwrap_or_default();
        let dims: Vec<i64> = shape.iter().map(|d| d.parse().expect("a number")).collect();
        self.filled(element, dims)
    }

    fn element(&mut self) -> i32 {
        let name = self.next();
        TYPES.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("unknown type `{name}`")).1
    }

    /// `[N, 3]`, `[]`, or nothing for an unknown rank.
    fn shape(&mut self) -> Option<Vec<String>> {
        self.eat("[").then(|| self.list("]", Reader::next))
    }

    fn filled(&mut self, data_type: i32, dims: Vec<i64>) -> TensorProto {
        self.expect("{");
        let items = self.list("}", Reader::next);
        let count = dims.iter().product::<i64>() as usize;
        let mut tensor = TensorProto { data_type, dims, ..Default::default() };
        let items: Vec<&String> = if items.len() == 1 { vec![&items[0]; count] } else { items.iter().collect() };
        match data_type {
            1 => tensor.float_data = items.iter().map(|i| i.parse().expect("a number")).collect(),
            11 => tensor.double_data = items.iter().map(|i| i.parse().expect("a number")).collect(),
            7 => tensor.int64_data = items.iter().map(|i| i.parse().expect("an integer")).collect(),
            12 | 13 => tensor.uint64_data = items.iter().map(|i| i.parse().expect("an integer")).collect(),
            8 => tensor.string_data = items.iter().map(|i| unquoted(i).into_bytes()).collect(),
            9 => tensor.int32_data = items.iter().map(|i| i32::from(*i == "true" || *i == "1")).collect(),
            _ => tensor.int32_data = items.iter().map(|i| i.parse().expect("an integer")).collect(),
        }
        tensor
    }

    /// `float[N, 3] x`, or with ` = {...}` an initializer; `seq(float[3]) x` and `optional(seq(float[3])) x` are no tensors.
    fn value(&mut self) -> (ValueInfoProto, Option<TensorProto>) {
        if matches!(self.peek(), "seq" | "optional") {
            let ty = self.container();
            return (ValueInfoProto { name: unquoted(&self.next()), type_: MessageField::some(ty), ..Default::default() }, None);
        }
        let element = self.element();
        let shape = self.shape();
        let name = unquoted(&self.next());
        let tensor = self.eat("=").then(|| {
            let dims = shape.iter().flatten().map(|d| d.parse().expect("a number")).collect();
            TensorProto { name: name.clone(), ..self.filled(element, dims) }
        });
        (ValueInfoProto { name, type_: MessageField::some(tensor_type(element, shape)), ..Default::default() }, tensor)
    }

    /// `seq(TYPE)`, `optional(TYPE)` or `float[3]`.
    fn container(&mut self) -> TypeProto {
        let (is_sequence, is_optional) = (self.eat("seq"), self.eat("optional"));
        if !is_sequence && !is_optional {
            let element = self.element();
            let shape = self.shape();
            return tensor_type(element, shape);
        }
        self.expect("(");
        let elem_type = MessageField::some(self.container());
        self.expect(")");
        let value = match is_sequence {
            true => type_proto::Value::SequenceType(type_proto::Sequence { elem_type, ..Default::default() }),
            false => type_proto::Value::OptionalType(type_proto::Optional { elem_type, ..Default::default() }),
        };
        TypeProto { value: Some(value), ..Default::default() }
    }
}

fn tensor_type(elem_type: i32, shape: Option<Vec<String>>) -> TypeProto {
    let dim = |text: &String| {
        let value = match text.parse() {
            Ok(number) => dimension::Value::DimValue(number),
            Err(_) => dimension::Value::DimParam(unquoted(text)),
        };
        Dimension { value: (text != "_").then_some(value), ..Default::default() }
    };
    let shape = shape.map(|dims| TensorShapeProto { dim: dims.iter().map(dim).collect(), ..Default::default() });
    let ty = type_proto::Tensor { elem_type, shape: shape.into(), ..Default::default() };
    TypeProto { value: Some(type_proto::Value::TensorType(ty)), ..Default::default() }
}

fn unquoted(text: &str) -> String {
    text.trim_matches('"').to_string()
}
