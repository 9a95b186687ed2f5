//! The page OPS.md, printed from the op table: a section for each `// ----` heading of the table, a row for each op.
//!
//! Invariant: the page says nothing that the table does not, so it is never edited by hand; a test compares it.

use crate::op::{Kind, OPS, OpDef};

/// The table's source, for its section headings.
const TABLE: &str = include_str!("op.rs");

const INTRODUCTION: &str = "\
<!-- Printed from the table in ir/src/op.rs by `EGRET_BLESS=1 cargo test -p egret-ir --test ops_md`; do not edit. -->

# Ops

Every op of the IR, from the one table that declares them. The kind says what the meaning is written as, and type inference,
evaluation and lowering follow from it:

| kind | meaning |
| --- | --- |
| elementwise | a scalar expression per element; operands broadcast against each other |
| composite | an expression over other ops, which is also how the op is recognised in a graph that spells it out |
| view | a renaming of indices |
| reduce | a fold over axes, which stay with extent 1 |
| structured | a module with type inference and evaluation of its own |

An attribute written with `=` may be left out and then has that value; an operand written `xs..` may be given any number of times.
";

/// The text of OPS.md.
pub fn ops_md() -> String {
    let mut page = INTRODUCTION.to_string();
    let mut current = None;
    for (index, def) in OPS.iter().enumerate() {
        let heading = section(def);
        if current != Some(heading) {
            current = Some(heading);
            page += &title(heading);
            page += "\n| op | in words | kind | meaning |\n| --- | --- | --- | --- |\n";
        }
        page += &row(def);
        if OPS.get(index + 1).is_none_or(|next| section(next) != heading) {
            page += &attributes(OPS.iter().filter(|d| section(d) == heading));
        }
    }
    page
}

/// The heading above an op in the table: `reduction; the axes stay, with extent 1`.
fn section(def: &OpDef) -> &'static str {
    let declared = |open: char| TABLE.find(&format!("\n    {}{open}", def.name));
    let above = &TABLE[..declared('(').or_else(|| declared('[')).unwrap_or(0)];
    above.rsplit_once("// ---- ").and_then(|(_, heading)| heading.lines().next()).unwrap_or("other")
}

/// The heading's first words as a title, the rest as a sentence.
fn title(heading: &str) -> String {
    let (words, note) = heading.split_once([';', ',']).unwrap_or((heading, ""));
    let note = if note.is_empty() { String::new() } else { format!("\n{}.\n", capitalized(note.trim())) };
    format!("\n## {}\n{note}", capitalized(words))
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn row(def: &OpDef) -> String {
    format!("| `{}` | {} | {} | {} |\n", signature(def), cell(def.doc.trim()), kind(def.kind), cell(&meaning(def)))
}

/// Text in a table's cell: `|` would end it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn signature(def: &OpDef) -> String {
    let attr = |(name, default): (&&str, Option<crate::Attr>)| default.map_or(name.to_string(), |d| format!("{name}={d}"));
    let attrs: Vec<String> = def.attrs.iter().zip(def.defaults()).map(attr).collect();
    let attrs = if attrs.is_empty() { String::new() } else { format!("[{}]", attrs.join(", ")) };
    format!("{}{attrs}({}{})", def.name, def.operands.join(", "), if def.variadic { ".." } else { "" })
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Elementwise => "elementwise",
        Kind::Composite => "composite",
        Kind::View => "view",
        Kind::Reduce => "reduce",
        Kind::Structured => "structured",
    }
}

fn meaning(def: &OpDef) -> String {
    let words: Vec<&str> = def.meaning.split_whitespace().collect();
    let text = words.join(" ");
    match def.kind {
        Kind::Elementwise => format!("`{}`", text.replace("scalar::", "").replace("(*", "(")),
        Kind::Composite => format!("`{text}`"),
        Kind::Reduce => text.to_lowercase(),
        Kind::View | Kind::Structured => format!("[ops/{text}.rs](ir/src/ops/{text}.rs)"),
    }
}

/// What the attributes of a section's ops take.
fn attributes<'a>(defs: impl Iterator<Item = &'a OpDef>) -> String {
    let line = |def: &OpDef| {
        let attrs: Vec<String> = def.attrs.iter().zip(def.attr_types).map(|(name, takes)| format!("`{name}` {takes}")).collect();
        format!("- `{}`: {}\n", def.name, attrs.join("; "))
    };
    let lines: String = defs.filter(|d| !d.attrs.is_empty()).map(line).collect();
    if lines.is_empty() { lines } else { format!("\nAttributes:\n\n{lines}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_op_has_a_section_and_its_module() {
        for def in OPS {
            assert_ne!(section(def), "other", "`{}` stands under no heading of the table", def.name);
            if matches!(def.kind, Kind::View | Kind::Structured) {
                let file = format!("{}/src/ops/{}.rs", env!("CARGO_MANIFEST_DIR"), def.meaning.trim());
                assert!(std::path::Path::new(&file).exists(), "`{}` links to {file}", def.name);
            }
        }
    }

    #[test]
    fn a_section() {
        let page = ops_md();
        let start = page.find("## Normalisation").unwrap();
        assert_eq!(
            page[start..].lines().nth(4),
            Some(
                "| `softmax[axes](x)` | Normalized exponential over `axes`. | composite | `div(exp(sub(x, reduce_max[axes](x))), reduce_sum[axes](exp(sub(x, reduce_max[axes](x)))))` |"
            )
        );
    }
}
