//! Runs the files of `cases/`: models in ONNX's textual syntax, and beside them what becomes of them.
//!
//! A file holds models under headings that start with `##`; a heading may end with options, as in `## name --dim N=4`. The
//! snapshot holds the graph as printed (and, when it has no parameters, what it computes), or the error, and all warnings.
//! To add a test, add a model to a file and run `INSTA_UPDATE=always cargo test -p egret-frontend --test cases`.

mod common;

use egret_frontend::{Code, Import, ImportOptions, import_bytes};
use egret_ir::Tensor;
use std::fmt::Write;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[test]
fn cases() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut files: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "txt")).collect();
    files.sort();
    assert!(!files.is_empty());
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(&folder);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let failed: Vec<String> = files
        .iter()
        .filter_map(|file| {
            let name = file.file_stem().unwrap().to_string_lossy().into_owned();
            let run = || settings.bind(|| insta::assert_snapshot!(name.as_str(), story(&fs::read_to_string(file).unwrap())));
            catch_unwind(AssertUnwindSafe(run)).is_err().then(|| name.clone())
        })
        .collect();
    assert!(failed.is_empty(), "cases differ: {failed:?}");
}

/// What a user may be told is seen by a reviewer first: each code stands in a snapshot of a message.
#[test]
fn every_code_has_a_message_in_a_snapshot() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["tests/cases", "tests/snapshots", "src/snapshots"].map(|folder| fs::read_dir(root.join(folder)).unwrap());
    let files =
        folders.into_iter().flatten().map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "snap"));
    let told: String = files.map(|path| fs::read_to_string(path).unwrap()).collect();
    let untold: Vec<&str> =
        Code::ALL.iter().map(|code| code.number()).filter(|number| !told.contains(&format!("error[{number}]"))).collect();
    assert!(untold.is_empty(), "no snapshot has a message of {untold:?}");
}

/// What becomes of every model of a file.
fn story(text: &str) -> String {
    let mut story = String::new();
    for section in text.split("\n## ").map(|s| s.trim_start_matches("## ")) {
        let (heading, model) = section.split_once('\n').unwrap_or((section, ""));
        let result = match import_bytes(common::bytes(model), &options(heading)) {
            Ok(import) => outcome(&import),
            Err(error) => format!("{error}\n"),
        };
        writeln!(story, "## {heading}\n{result}").unwrap();
    }
    story
}

fn options(heading: &str) -> ImportOptions {
    let mut options = ImportOptions::default();
    let mut words = heading.split_whitespace();
    while let Some(word) = words.next() {
        let pair = |text: Option<&str>| text.and_then(|t| t.split_once('=')).map(|(a, b)| (a.to_string(), b.to_string()));
        if word == "--dim" {
            let (name, value) = pair(words.next()).expect("NAME=NUMBER");
            options.dims.insert(name.into(), value.parse().expect("a number"));
        } else if word == "--shape" {
            let (name, value) = pair(words.next()).expect("NAME=NUMBERS");
            options.shapes.insert(name.into(), value.split('x').map(|d| d.parse().expect("a number")).collect());
        }
    }
    options
}

fn outcome(import: &Import) -> String {
    let graph = &import.graph;
    egret_ir::verify::verify(graph).unwrap();
    let mut text = graph.to_string();
    if graph.params().is_empty() {
        for (name, value) in graph.result_names.iter().zip(egret_ir::eval::eval(graph, &[]).unwrap()) {
            let elements: Vec<String> = value.elements().map(|e| e.to_string()).collect();
            writeln!(text, "{name} = {} [{}]", value.ty(), elements.join(", ")).unwrap();
        }
    }
    import.warnings.iter().for_each(|w| writeln!(text, "{w}").unwrap());
    text
}

/// Where the ratio is no number, elements are gathered; the op `resize`, which takes a number, says what is right.
#[test]
fn a_ratio_that_is_free_resizes_like_one_that_is_known() {
    let rounding =
        ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"].map(|r| format!("mode = \"nearest\", nearest_mode = \"{r}\""));
    let smooth = ["mode = \"linear\"", "mode = \"cubic\", cubic_coeff_a = -0.5"].map(str::to_string);
    for mode in rounding.into_iter().chain(smooth) {
        for coordinates in ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"] {
            let model = common::bytes(&format!(
                "<ir_version: 10, opset_import: [\"\" : 18]>
                main (float[2, H, 3] x, float[K] like) => (float[2, K, 3] y) {{ k = Shape (like)
                    y = Resize <axes = [1], {mode}, coordinate_transformation_mode = \"{coordinates}\"> (x, , , k) }}"
            ));
            for (from, to) in [(1, 4), (4, 1), (3, 3), (5, 8), (8, 5), (7, 14), (9, 3)] {
                let dims = [("H".into(), from), ("K".into(), to)].into();
                let known = import_bytes(model.clone(), &ImportOptions { dims, ..ImportOptions::default() }).unwrap();
                let free = import_bytes(model.clone(), &ImportOptions::default()).unwrap();
                let [x, like] = [6 * from, to].map(|count| (0..count).map(|i| (i * i % 7) as f32).collect::<Vec<f32>>());
                let inputs = [Tensor::from_f32s(vec![2, from as usize, 3], &x), Tensor::from_f32s(vec![to as usize], &like)];
                let [right, found] = [known, free].map(|import| egret_ir::eval::eval(&import.graph, &inputs).unwrap().remove(0).to_f64s());
                let wrong = right.iter().zip(&found).filter(|(a, b)| (*a - *b).abs() > 1e-5).count();
                assert!(right.len() == found.len() && wrong == 0, "{mode} {coordinates} {from} to {to}: {found:?}, expected {right:?}");
            }
        }
    }
}
