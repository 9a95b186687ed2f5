//! The kinds of things that can be wrong with a model, each with a number that never changes and a page that explains it.
//!
//! ```text
//! $ egret explain E0107
//! E0107: operator that is not supported
//!
//! The model uses an operator ...
//! ```

/// The kinds of things that are wrong with a model; the number is part of every message and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// The file cannot be read, is damaged, or is not an ONNX model.
    File,
    /// A name is used twice, or stands for nothing.
    Name,
    /// Nodes wait for each other.
    Cycle,
    /// An attribute is missing, has the wrong type, or a value that is not supported.
    Attribute,
    /// An input or output is missing, too many, or not supported.
    Operand,
    /// The operator is not known or not supported.
    Operator,
    /// The operator set is too old or not declared.
    Opset,
    /// The element type is not supported.
    ElementType,
    /// The value is not a dense tensor.
    ValueKind,
    /// A function calls itself, or the calls unfold without end.
    Function,
    /// Control flow that depends on data.
    ControlFlow,
    /// Operands do not fit each other or the operator.
    Shape,
    /// A shape depends on data that is only known at run time.
    DataDependent,
}

/// What a [`Code`] says at length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// `E0107`.
    pub number: &'static str,
    /// A few words.
    pub title: &'static str,
    /// What was found, and why it cannot be compiled.
    pub meaning: &'static str,
    /// What to do, the usual causes first.
    pub help: &'static str,
}

impl Code {
    /// All codes, by number.
    pub const ALL: [Code; 13] = [
        Code::File,
        Code::Name,
        Code::Cycle,
        Code::Attribute,
        Code::Operand,
        Code::Operator,
        Code::Opset,
        Code::ElementType,
        Code::ValueKind,
        Code::Function,
        Code::ControlFlow,
        Code::Shape,
        Code::DataDependent,
    ];

    /// `E0107`.
    pub fn number(self) -> &'static str {
        self.explanation().number
    }

    /// The code of a number such as `E0107`.
    pub fn numbered(number: &str) -> Option<Code> {
        Code::ALL.into_iter().find(|code| code.number() == number)
    }

    /// What it says at length.
    pub fn explanation(self) -> Explanation {
        let (number, title, meaning, help) = match self {
            Code::File => (
                "E0101",
                "file that cannot be used",
                "The model file, or a file beside it that holds its weights, is missing, cannot be read, ends early, or is not an ONNX \
                 model. Nothing of it was imported.",
                "Check the path. Where weights lie in files of their own, they have to be beside the model under the names that the \
                 message shows. A file that breaks off was not copied or downloaded to its end: Git LFS leaves a short text in place \
                 of a large file until `git lfs pull`.",
            ),
            Code::Name => (
                "E0102",
                "name that is used twice, or stands for nothing",
                "Every value of a graph is made once: by an input, an initializer or a node. Here a name has several makers, or is read \
                 or listed as an output and has none.",
                "Export the model again. After editing a graph by hand, check that nodes that were removed are not read any more, and \
                 run `onnx.checker.check_model`.",
            ),
            Code::Cycle => (
                "E0103",
                "nodes that wait for each other",
                "The nodes of a graph must not depend on their own results. The nodes that do so are listed.",
                "Export the model again. State that goes from one run to the next is an input and an output of the model, a loop is the \
                 operator Loop or Scan.",
            ),
            Code::Attribute => (
                "E0104",
                "attribute that is missing, wrong or not supported",
                "An attribute of a node has another type than the standard gives it, is missing where it is needed, or has a value that \
                 is not compiled. The message shows the attribute and its value.",
                "Where the value is wrong, export the model again. Where it is not supported, write the computation with other operators \
                 before the export.",
            ),
            Code::Operand => (
                "E0105",
                "input or output that is missing, too many or not supported",
                "A node has fewer inputs than its operator needs or more than it takes, or uses an optional input or output that is not \
                 compiled.",
                "Check the operator's version: inputs were added over time, and the model's operator set has to be the one that its \
                 exporter meant. Leave out optional outputs that nobody reads.",
            ),
            Code::Operator => (
                "E0107",
                "operator that is not supported",
                "The model uses an operator that Egret does not compile, and that is no function of the model. Operators of other \
                 domains than the standard's are written by the tools of one vendor; of these, many of ONNX Runtime's \
                 (com.microsoft) are compiled.",
                "Follow the help line of the message. Otherwise replace the operator by standard ones before the export, export without \
                 the tool's own optimisations, give the model a function of that name, or cut it in two and compute the operator in \
                 the calling program.",
            ),
            Code::Opset => (
                "E0108",
                "operator set that is too old or not declared",
                "What an operator means depends on the version of the operator set that the model declares. Versions from 7 on are read; \
                 older ones, and models that declare none, are not.",
                "Convert the model with `onnx.version_converter.convert_version(model, 17)`, or export it again with a newer \
                 `opset_version`.",
            ),
            Code::ElementType => (
                "E0109",
                "element type that is not supported",
                "A tensor has elements of a type that is not compiled (text and complex numbers are not), or that its operator does not \
                 take.",
                "Convert the tensor to another type in the model, or do what needs this type in the calling program.",
            ),
            Code::ValueKind => (
                "E0110",
                "value that is not a dense tensor",
                "Values of compiled models are dense tensors. A sequence is so many of them, an optional value one or none, where that is \
                 known when the model is compiled. Maps and sparse tensors are not compiled.",
                "If an input is a sequence or optional, say how long it is or whether it is given: `--dim NAME.length=N`, `--dim \
                 NAME.given=1`. Otherwise export the model with tensors only: a sparse tensor can be stored as a dense one.",
            ),
            Code::Function => (
                "E0111",
                "function or graph that unfolds without end",
                "Functions are put in place of their calls. Here one calls itself, or functions and branches are nested deeper, or unfold \
                 into more nodes, than any real model needs.",
                "Export the model again; if it is right as it is, inline its functions first (`onnx.inliner.inline_local_functions`).",
            ),
            Code::ControlFlow => (
                "E0112",
                "branch or loop that depends on data",
                "Branches and loops are compiled whatever data decides, but a value has one element type and one number of axes, and a \
                 sequence one length: here the branches of a condition, or the steps of a loop, give different ones for the same value.",
                "If the condition comes from an input, make that a constant with `--freeze INPUT=VALUE`; if it comes from a free \
                 dimension, give it as a number with `--dim NAME=N`. Otherwise export the model so that both branches, and all steps, \
                 give tensors of the same type and number of axes.",
            ),
            Code::Shape => (
                "E0201",
                "operands that do not fit",
                "The shapes or element types of a node's operands contradict each other or the operator, for the extents that are known.",
                "If free dimensions take part, check the numbers given with `--dim`: they have to fit each other. Otherwise look at the \
                 nodes before this one in the message's line `graph`: the first wrong shape is seldom the one that fails.",
            ),
            Code::DataDependent => (
                "E0202",
                "shape that depends on data",
                "Extents are numbers, expressions of free dimensions, or found when the model runs. Axes, and what a few operators need to \
                 know of a shape, have to be known when it is compiled; here they are computed from data.",
                "The help line names the input it comes from, if there is one: make it a constant with `--freeze INPUT=VALUE`. If free \
                 dimensions stand in the way, give them as numbers with `--dim NAME=N`.",
            ),
        };
        Explanation { number, title, meaning, help }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_by_their_numbers() {
        assert!(Code::ALL.windows(2).all(|pair| pair[0].number() < pair[1].number()));
        for code in Code::ALL {
            assert_eq!(Code::numbered(code.number()), Some(code));
        }
        assert_eq!(Code::numbered("E0106"), None);
    }
}
