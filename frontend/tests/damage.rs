//! Damaged models: every one ends in a result, none in a panic.

mod common;

use common::random::Random;
use egret_frontend::{ImportError, ImportOptions, import, import_bytes};
use std::fs;
use std::path::Path;

/// Models with everything that a file can hold: weights as bytes and as lists, branches, functions, all kinds of attributes.
const MODELS: [&str; 3] = [
    r#"<ir_version: 10, opset_import: ["" : 18, "local" : 1]>
    main (float[N, 3, H, W] x, float[3] w) => (float y, int64 i) <float[4, 3, 3, 3] k = {0.1}, float[4] b = {1}, float[3] w = {2}, int64[2] to = {0, -1}, int64[1] one = {1}> {
        [conv] c = Conv <pads = [1, 1, 1, 1], strides = [2, 2], auto_pad = "NOTSET"> (x, k, b)
        [pool] p = MaxPool <kernel_shape = [2, 2], ceil_mode = 1> (c)
        r = local.act <alpha = 0.3> (p)
        s = Shape <start = 1, end = 2> (r)
        e = Equal (s, one)
        [pick] q = If <then_branch = t () => (float a) { a = Neg (r) }, else_branch = f () => (float b2) <float[1] z = {5}> { b2 = Add (r, z) }> (e)
        g = Reshape <allowzero = 0> (q, to)
        m = Clip (g, , )
        y, i = TopK <axis = -1, largest = 0> (m, one)
    }
    <domain: "local", opset_import: ["" : 17]>
    act <alpha = 0.1> (a) => (b) { b = LeakyRelu <alpha : float = @alpha> (a) }"#,
    r#"<ir_version: 8, opset_import: ["" : 14]>
    main (float[T, B, 3] x) => (float y, float z) <float[2, 16, 3] w = {0.1}, float[2, 16, 4] r = {0.2}, float[2, 32] b = {0}, int64[3] from = {0, 0, 0}, int64[3] upto = {9, 9, -1}, int64[1] depth = {4}, float[2] onoff = {0, 1}> {
        y, h = LSTM <hidden_size = 4, direction = "bidirectional", activations = ["Sigmoid", "Tanh", "Tanh", "Sigmoid", "Tanh", "Tanh"]> (x, w, r, b)
        s = Slice (x, from, upto)
        m = ReduceMean <axes = [0, 2], keepdims = 0> (s)
        n = ArgMax (m)
        o = OneHot <axis = 0> (n, depth, onoff)
        v = Constant <value = float[1] {3}> ()
        c = ConstantOfShape <value = float[1] {2}> (depth)
        a = Einsum <equation = "i...,j->j"> (o, c)
        z = Mul (a, v)
    }"#,
    r#"<ir_version: 11, opset_import: ["" : 23]>
    main (float[B, S, 32] q, float[B, P, 16] k, int64[B, S] ids, float16[2, 2] h) => (float y, float16 u) <float[64, 4] cos = {1}, float[64, 4] sin = {0}, float16[2] f = {15360}, int64[8] p = {0, 1, 0, 0, 0, 2, 0, 0}, float[4] scales = {1, 1, 2, 1.5}> {
        r = RotaryEmbedding <num_heads = 4> (q, cos, sin, ids)
        a, key = Attention <is_causal = 1, q_num_heads = 4, kv_num_heads = 2, softcap = 2.0> (r, k, k)
        l = LayerNormalization <axis = -1, epsilon = 0.001> (a, cos)
        t = Unsqueeze (a, one)
        one = Constant <value_ints = [1]> ()
        d = Pad <mode = "reflect"> (t, p)
        y = Resize <mode = "cubic", coordinate_transformation_mode = "asymmetric"> (d, , scales)
        u = Add (h, f)
    }"#,
];

/// The model with the weights of `k` and `w` as raw bytes.
fn bytes(text: &str) -> Vec<u8> {
    use onnx_protobuf::Message;
    let mut model = common::model(text);
    for tensor in &mut model.graph.mut_or_insert_default().initializer {
        if !tensor.float_data.is_empty() {
            tensor.raw_data = std::mem::take(&mut tensor.float_data).iter().flat_map(|f| f.to_le_bytes()).collect();
        }
    }
    model.write_to_bytes().unwrap()
}

#[test]
fn damaged_models_are_errors_or_models() {
    let mut random = Random::new(1);
    let (mut models, mut errors) = (0, 0);
    for text in MODELS {
        let whole = bytes(text);
        for round in 0..1500 {
            let mut damaged = whole.clone();
            match round % 4 {
                // Cut off.
                0 => damaged.truncate(random.below(whole.len())),
                // Some bytes replaced.
                1 | 2 => (0..=random.below(4)).for_each(|_| {
                    let at = random.below(damaged.len());
                    damaged[at] = random.below(256) as u8;
                }),
                // One stretch copied over another.
                _ => {
                    let (from, to, length) = (random.below(whole.len()), random.below(whole.len()), random.below(64));
                    let stretch: Vec<u8> = whole[from..].iter().take(length).copied().collect();
                    damaged.splice(to..(to + length).min(whole.len()), stretch);
                }
            }
            match import_bytes(damaged, &ImportOptions::default()) {
                Ok(_) => models += 1,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    errors += 1;
                }
            }
        }
    }
    assert!(models > 250 && errors > 1000, "{models} models and {errors} errors: the damage is too weak or too strong");
}

#[test]
fn whole_models_are_models() {
    // The third has operands that contradict each other, so that errors are damaged too.
    let results: Vec<bool> = MODELS.iter().map(|text| import_bytes(bytes(text), &ImportOptions::default()).is_ok()).collect();
    assert_eq!(results, [true, true, false]);
}

/// Each function calls the one before it twice: 30 of them would make a billion nodes.
#[test]
fn functions_do_not_unfold_without_end() {
    let mut text = String::from("<ir_version: 8, opset_import: [\"\" : 17, \"f\" : 1]>\nmain (float[2] x) => (float y) { y = f.f30 (x) }");
    text += "<domain: \"f\", opset_import: [\"\" : 17]> f0 (a) => (b) { b = Neg (a) }";
    for i in 1..=30 {
        let below = i - 1;
        text +=
            &format!("<domain: \"f\", opset_import: [\"\" : 17, \"f\" : 1]> f{i} (a) => (b) {{ c = f.f{below} (a)\n b = f.f{below} (c) }}");
    }
    let error = import_bytes(common::bytes(&text), &ImportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("unfolds into more than") && error.lines().count() == 2, "{error}");
}

/// A folder that goes away with the test.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("egret-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn import(&self, name: &str, content: Option<&[u8]>) -> Result<egret_frontend::Import, ImportError> {
        if let Some(content) = content {
            fs::write(self.0.join(name), content).unwrap();
        }
        import(&self.0.join(name), &ImportOptions::default())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn unreadable_files_are_sentences() {
    let folder = Folder::new("files");
    let model = bytes(MODELS[0]);
    let groups: Vec<u8> = [0x3b].repeat(1_000_000);
    let cases: [(&str, Option<&[u8]>); 6] = [
        ("missing.onnx", None),
        (".", None),
        ("empty.onnx", Some(b"")),
        ("text.onnx", Some(b"This is not a model, it is a text.")),
        ("cut.onnx", Some(&model[..model.len() / 2])),
        ("groups.onnx", Some(&groups)),
    ];
    let errors: Vec<String> = cases
        .iter()
        .map(|(name, content)| folder.import(name, *content).unwrap_err())
        .inspect(|e| assert_eq!(e.exit_code(), 4))
        .map(|e| e.to_string())
        .collect();
    insta::assert_snapshot!(errors.join("\n\n").replace(&folder.0.display().to_string(), "<folder>"));
}

#[test]
fn external_data_is_read_and_missed() {
    use onnx_protobuf::{Message, StringStringEntryProto, tensor_proto::DataLocation};
    let mut model = common::model("<ir_version: 8, opset_import: [\"\" : 17]>\nmain () => (float[2] y) <float[2] w = {0}> { y = Neg (w) }");
    let tensor = &mut model.graph.mut_or_insert_default().initializer[0];
    tensor.float_data.clear();
    tensor.data_location = DataLocation::EXTERNAL.into();
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into(), ..Default::default() };
    tensor.external_data = vec![entry("location", "w.bin"), entry("offset", "4"), entry("length", "8")];
    let bytes = model.write_to_bytes().unwrap();

    let folder = Folder::new("external");
    let missing = folder.import("m.onnx", Some(&bytes)).unwrap_err();
    assert!(matches!(&missing, ImportError::File(e) if e.path == Path::new(&folder.0).join("w.bin")), "{missing}");
    fs::write(folder.0.join("w.bin"), [0.0f32, 1.5, -2.0].map(f32::to_le_bytes).concat()).unwrap();
    let import = folder.import("m.onnx", None).unwrap();
    assert_eq!(egret_ir::eval::eval(&import.graph, &[]).unwrap()[0].to_f64s(), [-1.5, 2.0]);
    assert!(import_bytes(bytes, &ImportOptions::default()).unwrap_err().to_string().contains("given as bytes"));
}
