//! The page of `egret explain --html`: the graph as imported and the kernels side by side, one file that loads nothing.
//!
//! The drawings are made here; the script only shows what belongs to a kernel that is clicked, from data in the page.

use super::layers::place;
use super::{Explanation, Imported, Kernel};
use egret::ir::{Kind, OpDef};
use std::collections::HashMap;
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Height of a box, in pixels.
const BOX: f64 = 34.0;

/// Width of a letter of a label: the font is 12 pixels high.
const LETTER: f64 = 7.0;

/// Longer labels are cut.
const MOST_LETTERS: usize = 36;

/// The page.
pub fn page(explanation: &Explanation) -> String {
    let before: Vec<Drawn> = explanation.nodes.iter().map(Drawn::imported).collect();
    let after: Vec<Drawn> = explanation.kernels.iter().map(Drawn::kernel).collect();
    // Within JSON strings `<` may also be written so, and then no name can end the script.
    let data = serde_json::to_string(explanation).unwrap_or_default().replace('<', "\\u003c");
    let (nodes, kernels) = (before.len(), after.len());
    let rule = explanation.weakest_rule.map_or_else(|| "no rules applied".to_string(), |class| format!("weakest rule {class}"));
    let times = times(&explanation.kernels);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n\
         <header><h1>{title}</h1><p>{nodes} ops became {kernels} kernels, {rule}. {times}. Click a box to see where it comes from.</p></header>\n\
         <main><section id=\"before\"><h2>As imported</h2>{}</section><section id=\"after\"><h2>Kernels</h2>{}</section>\
         <aside id=\"details\"><h2>Details</h2><p>Nothing is chosen.</p></aside></main>\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n<script>{SCRIPT}</script>\n</html>\n",
        drawing(&before, "n"),
        drawing(&after, "k"),
        title = escaped(&explanation.model),
    )
}

/// `Predicted are 21.0 us in all, measured were 22.4 us`.
fn times(kernels: &[Kernel]) -> String {
    let sum = |of: fn(&Kernel) -> Option<f64>| kernels.iter().filter_map(of).reduce(|a, b| a + b);
    let predicted = sum(|kernel| kernel.predicted_us)
        .map_or("Times are not predicted for a GPU".into(), |us| format!("Predicted are {us:.1} us in all"));
    let measured = sum(|kernel| kernel.measured_us).map_or(String::new(), |us| format!(", measured were {us:.1} us"));
    format!("{predicted}{measured}")
}

/// A box of a drawing.
struct Drawn<'a> {
    title: String,
    subtitle: String,
    kind: &'static str,
    value: &'a str,
    reads: &'a [String],
}

impl Drawn<'_> {
    fn imported(node: &Imported) -> Drawn<'_> {
        Drawn { title: node.op.to_string(), subtitle: node.ty.clone(), kind: kind(&[node.op]), value: &node.value, reads: &node.reads }
    }

    fn kernel(kernel: &Kernel) -> Drawn<'_> {
        let title = title(&kernel.ops);
        let time = kernel.measured_us.or(kernel.predicted_us).map_or(String::new(), |us| format!("{us:.2} us   "));
        let subtitle = format!("{time}{}", kernel.ty);
        Drawn { title, subtitle, kind: kind(&kernel.ops), value: &kernel.value, reads: &kernel.reads }
    }

    fn width(&self) -> f64 {
        let letters = |text: &str| text.chars().count().min(MOST_LETTERS) as f64;
        (letters(&self.title).max(letters(&self.subtitle)) + 3.0) * LETTER
    }
}

/// What a kernel does; the views through which it reads and writes only where there is nothing else.
fn title(ops: &[&str]) -> String {
    let is_view = |op: &&str| OpDef::named(op).is_some_and(|def| def.kind == Kind::View);
    let named: Vec<&str> = ops.iter().copied().filter(|op| !is_view(op)).collect();
    (if named.is_empty() { ops } else { &named }).join(" · ")
}

/// What colours a box: the op that takes the most time.
fn kind(ops: &[&str]) -> &'static str {
    let of = |op: &&str| match *op {
        "matmul" | "conv" | "conv_transpose" | "attention" | "lstm" | "gru" | "rnn" => "contract",
        "max_pool" | "avg_pool" | "softmax" | "log_softmax" => "rows",
        op if op.starts_with("reduce") || op.contains("norm") || op.starts_with("arg_") => "rows",
        "reshape" | "transpose" | "slice" | "concat" | "pad" | "gather" | "broadcast" | "split" => "move",
        _ => "map",
    };
    let order = ["contract", "rows", "map", "move"];
    order.into_iter().find(|kind| ops.iter().any(|op| of(op) == *kind)).unwrap_or("map")
}

/// The boxes and edges as SVG; box `i` has the id `PREFIXi`.
fn drawing(boxes: &[Drawn<'_>], prefix: &str) -> String {
    let position: HashMap<&str, usize> = boxes.iter().enumerate().map(|(i, drawn)| (drawn.value, i)).collect();
    let widths: Vec<f64> = boxes.iter().map(Drawn::width).collect();
    let reads = |drawn: &Drawn<'_>| drawn.reads.iter().filter_map(|value| position.get(value.as_str()).copied()).collect();
    let placed = place(&widths, &boxes.iter().map(reads).collect::<Vec<_>>());
    let (width, height) = placed.size;
    let mut svg = format!("<div class=\"scroll\"><svg width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\">");
    for points in &placed.edges {
        let _ = write!(svg, "<path d=\"{}\"/>", curve(points));
    }
    for (i, (drawn, ((x, y), width))) in boxes.iter().zip(placed.nodes.iter().zip(&widths)).enumerate() {
        let _ = write!(
            svg,
            "<g id=\"{prefix}{i}\" class=\"{}\" tabindex=\"0\" transform=\"translate({:.1} {:.1})\"><title>{}</title>\
             <rect width=\"{width:.1}\" height=\"{BOX}\" rx=\"5\"/><text x=\"{:.1}\" y=\"14\">{}</text>\
             <text class=\"type\" x=\"{:.1}\" y=\"27\">{}</text></g>",
            drawn.kind,
            x - width / 2.0,
            y - BOX / 2.0,
            escaped(drawn.value),
            width / 2.0,
            escaped(&cut(&drawn.title)),
            width / 2.0,
            escaped(&cut(&drawn.subtitle)),
        );
    }
    svg + "</svg></div>"
}

/// A line through points that leaves and enters boxes from below and from above.
fn curve(points: &[(f64, f64)]) -> String {
    let last = points.len().saturating_sub(1);
    let end = |i: usize| match i {
        0 => (points[0].0, points[0].1 + BOX / 2.0),
        i if i == last => (points[i].0, points[i].1 - BOX / 2.0),
        i => points[i],
    };
    let mut path = format!("M{:.1} {:.1}", end(0).0, end(0).1);
    for i in 1..points.len() {
        let ((x, y), (to_x, to_y)) = (end(i - 1), end(i));
        let middle = (y + to_y) / 2.0;
        let _ = write!(path, "C{x:.1} {middle:.1} {to_x:.1} {middle:.1} {to_x:.1} {to_y:.1}");
    }
    path
}

fn cut(text: &str) -> String {
    match text.chars().count() > MOST_LETTERS {
        true => text.chars().take(MOST_LETTERS - 1).chain(['…']).collect(),
        false => text.to_string(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_model_cannot_break_the_page() {
        let node = Imported { value: "a<b>".into(), op: "relu", ty: "f32[2]".into(), reads: vec![], origins: vec!["</script>\"&".into()] };
        let explanation =
            Explanation { schema: "", model: "<m>".into(), weakest_rule: None, nodes: vec![node], kernels: vec![], unpredicted: "" };
        let page = page(&explanation);
        assert!(page.contains("&lt;m&gt;") && page.contains("a&lt;b&gt;") && !page.contains("<m>"));
        assert_eq!(page.matches("</script>").count(), 2, "{page}");
    }

    #[test]
    fn views_are_no_part_of_a_title() {
        assert_eq!(title(&["slice", "transpose", "attention", "transpose"]), "attention");
        assert_eq!(title(&["reshape", "transpose"]), "reshape · transpose");
    }

    #[test]
    fn a_kernel_is_what_takes_its_time() {
        assert_eq!(
            [kind(&["transpose", "matmul", "add"]), kind(&["add"]), kind(&["reshape"]), kind(&["exp", "softmax"])],
            ["contract", "map", "move", "rows"]
        );
    }
}
