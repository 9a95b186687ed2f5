//! The executor on a device written in Rust, which computes `1.5*x + 1` whatever the image says.

use super::*;
use crate::device::Area;
use crate::plan::{Buffer as PlanBuffer, Size};
use crate::session::Session;
use crate::testing::{chain, dynamic_chain, gpu_target, image, written};
use crate::{DType, WeightsCheck};
use std::sync::{Arc, Mutex};

/// What a device was asked to do.
#[derive(Default)]
struct Log {
    recorded: Vec<usize>,
    replayed: usize,
    moved: usize,
}

/// Memory that is filled with what must not be used wherever it is lost.
#[derive(Default)]
struct Toy {
    areas: HashMap<Area, Vec<u8>>,
    lengths: Lengths,
    runs: HashMap<usize, Run>,
    capability: Option<Version>,
    log: Arc<Mutex<Log>>,
}

impl Toy {
    fn of(capability: Option<(u32, u32)>) -> (Toy, Arc<Mutex<Log>>) {
        let toy = Toy { capability: capability.map(|(major, minor)| Version { major, minor }), ..Toy::default() };
        let log = toy.log.clone();
        (toy, log)
    }

    fn bytes(&self, span: &Span) -> Vec<u8> {
        assert_eq!(span.offset % DEVICE_ALIGN, 0);
        self.areas[&span.area][range(span)].to_vec()
    }

    fn put(&mut self, span: &Span, bytes: &[u8]) {
        assert_ne!(span.area, Area::Weights, "weights are not written");
        self.areas.get_mut(&span.area).unwrap()[range(span)].copy_from_slice(bytes);
    }

    fn work(&mut self, run: &Run) {
        for command in &run.commands {
            match command {
                Command::Copy { from, to } => self.put(to, &self.bytes(from)),
                Command::Launch { blocks, buffers, reads, sizes, .. } => {
                    assert_eq!((*blocks as i64, *reads), (sizes[0], 1), "the blocks of the test's images are their size");
                    let floats = self.bytes(&buffers[0]);
                    let next = |x: &[u8]| (f32::from_le_bytes(x.try_into().unwrap()) * 1.5 + 1.0).to_le_bytes();
                    self.put(&buffers[1], &floats.chunks(4).flat_map(next).collect::<Vec<u8>>());
                }
            }
        }
    }
}

impl Device for Toy {
    fn name(&self) -> String {
        "toy".into()
    }

    fn capability(&self) -> Option<Version> {
        self.capability
    }

    fn load(&mut self, _: &Image) -> Result<()> {
        Ok(())
    }

    fn upload(&mut self, pieces: &[(u64, &[u8])]) -> Result<()> {
        let weights = self.areas.entry(Area::Weights).or_default();
        for (offset, bytes) in pieces {
            weights.resize(*offset as usize, 0xff);
            weights.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn reserve(&mut self, needed: Lengths) -> Result<bool> {
        if self.lengths.hold(&needed) && self.areas.len() > 1 {
            return Ok(false);
        }
        self.lengths = self.lengths.max(needed);
        let Lengths { arena, inputs, outputs } = self.lengths;
        for (area, bytes) in [(Area::Arena, arena), (Area::Inputs, inputs), (Area::Outputs, outputs)] {
            self.areas.insert(area, vec![0xff; bytes as usize]);
        }
        self.runs.clear();
        self.log.lock().unwrap().moved += 1;
        Ok(true)
    }

    fn record(&mut self, slot: usize, run: &Run) -> Result<()> {
        self.log.lock().unwrap().recorded.push(slot);
        self.runs.insert(slot, run.clone());
        Ok(())
    }

    fn inputs(&mut self) -> Result<&mut [u8]> {
        Ok(self.areas.get_mut(&Area::Inputs).unwrap())
    }

    fn replay(&mut self, slot: usize) -> Result<()> {
        self.log.lock().unwrap().replayed += 1;
        self.work(&self.runs[&slot].clone());
        Ok(())
    }

    fn outputs(&self) -> Result<&[u8]> {
        Ok(&self.areas[&Area::Outputs])
    }

    fn timed(&mut self, run: &Run) -> Result<Vec<Duration>> {
        self.work(run);
        Ok((1..).map(Duration::from_micros).take(run.commands.len()).collect())
    }
}

fn artifact(plan: &Plan, weights: &[u8]) -> Artifact {
    let code = image(plan).to_bytes().unwrap();
    let bytes = written(plan, &code, &gpu_target(), [weights.into()]).unwrap();
    Artifact::from_bytes(&bytes, WeightsCheck::Full).unwrap()
}

fn session(plan: &Plan) -> (Session, Arc<Mutex<Log>>) {
    let (toy, log) = Toy::of(None);
    (Session::on(artifact(plan, &[]), Box::new(toy)).unwrap(), log)
}

fn expected(x: &Tensor, steps: u32) -> Vec<f32> {
    x.as_slice::<f32>().unwrap().iter().map(|&x| (0..steps).fold(x, |x, _| x * 1.5 + 1.0)).collect()
}

#[test]
fn a_run_is_recorded_once_for_each_binding_and_again_when_memory_moved() {
    let (mut session, log) = session(&dynamic_chain(4));
    assert_eq!(session.device().as_deref(), Some("toy"));
    for n in [5usize, 0, 1000, 5, 3, 1000, 5] {
        let x = Tensor::random(DType::F32, &[n], n as u64).unwrap();
        let outputs = session.run(&[("x", x.view())]).unwrap();
        assert_eq!(outputs[0].as_slice::<f32>().unwrap(), expected(&x, 4));
    }
    let log = log.lock().unwrap();
    // 1000 made the memory move, so 5 was recorded again.
    assert_eq!((log.recorded.as_slice(), log.replayed, log.moved), (&[0, 1, 2, 0, 3][..], 7, 2));
    assert_eq!(session.arena_bytes() % DEVICE_ALIGN, 64, "whole spans, and the slack");
}

#[test]
fn a_binding_that_makes_room_takes_its_recording_along() {
    let (mut session, _) = session(&dynamic_chain(2));
    for n in (1..150usize).chain([1, 149]) {
        let x = Tensor::random(DType::F32, &[n], 0).unwrap();
        let outputs = session.run(&[("x", x.view())]).unwrap();
        assert_eq!(outputs[0].as_slice::<f32>().unwrap(), expected(&x, 2), "{n}");
    }
}

#[test]
fn errors_are_those_of_a_session_on_the_processor() {
    let (mut session, log) = session(&chain(2));
    let x = Tensor::random(DType::F32, &[4], 1).unwrap();
    let long = Tensor::random(DType::F32, &[5], 1).unwrap();
    let integers = Tensor::random(DType::I64, &[4], 1).unwrap();
    let mut refused = |inputs: &[(&str, TensorView<'_>)], words: &str| {
        let error = session.run(inputs).unwrap_err();
        assert!(error.to_string().contains(words) && error.exit_code() == 2, "{error}");
    };
    refused(&[("z", x.view())], "inputs are missing: `x`");
    refused(&[("x", long.view())], "input `x` is f32[4]; found [5]");
    refused(&[("x", integers.view())], "found elements of type i64");
    assert_eq!(log.lock().unwrap().replayed, 0, "nothing ran");
}

#[test]
fn outputs_that_no_kernel_writes_are_copied() {
    let mut plan = chain(2);
    plan.buffers.push(PlanBuffer { name: "w".into(), bytes: Size::Const(16), place: Place::Weights { offset: 64 } });
    for (buffer, name) in [(0, "same"), (2, "twice"), (3, "weight")] {
        plan.outputs.push(Port { name: name.into(), buffer, ..plan.outputs[0].clone() });
    }
    let floats: Vec<u8> = (0..20u32).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let (toy, _) = Toy::of(None);
    let mut session = Session::on(artifact(&plan, &floats), Box::new(toy)).unwrap();
    let x = Tensor::random(DType::F32, &[4], 1).unwrap();
    let outputs = session.run(&[("x", x.view())]).unwrap();
    let values: Vec<&[f32]> = outputs.iter().map(|output| output.as_slice().unwrap()).collect();
    let twice = expected(&x, 2);
    assert_eq!(values, [&twice[..], x.as_slice().unwrap(), &twice, &[16.0, 17.0, 18.0, 19.0]]);
}

#[test]
fn profiles_have_a_span_for_each_kernel_that_was_started() {
    let (mut session, _) = session(&dynamic_chain(3));
    let mut steps = |n: usize| {
        let x = Tensor::random(DType::F32, &[n], 1).unwrap();
        let mut outputs = session.allocate_outputs(&[("x", x.view())]).unwrap();
        let spans = session.run_profiled(&[("x", x.view())], &mut outputs).unwrap().spans;
        assert_eq!(outputs[0].as_slice::<f32>().unwrap(), expected(&x, 3));
        spans.iter().map(|span| (span.step, (span.end - span.begin).as_micros())).collect::<Vec<_>>()
    };
    assert_eq!(steps(7), [(0, 1), (1, 2), (2, 3)]);
    assert_eq!(steps(0), [], "empty grids are not started");
}

#[test]
fn the_program_is_the_latest_that_the_device_runs() {
    use crate::artifact::Program;
    let plan = chain(1);
    let targets = ["sm_75", "sm_90a", "sm_80", "sm_90"].map(|cpu| TargetInfo { cpu: cpu.into(), ..gpu_target() });
    let code = |target: &TargetInfo| {
        let image = image(&plan);
        Image { ptx: image.ptx.replace("sm_80", &target.cpu), ..image }.to_bytes().unwrap()
    };
    let codes: Vec<Vec<u8>> = targets.iter().map(code).collect();
    let programs: Vec<Program<'_>> = targets.iter().zip(&codes).map(|(target, code)| Program { target, plan: &plan, code }).collect();
    let artifact = Artifact::from_bytes(&crate::artifact::to_bytes(&programs, []).unwrap(), WeightsCheck::Full).unwrap();
    let chosen = |capability| program_for(&artifact, &Toy::of(capability).0);
    assert_eq!([Some((9, 0)), Some((8, 9)), Some((7, 5)), Some((12, 0)), None].map(|c| chosen(c).unwrap()), [1, 2, 0, 3, 1]);
    let error = chosen(Some((7, 0))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "<memory>: the file holds code for cuda:sm_75 and cuda:sm_90a and cuda:sm_80 and cuda:sm_90, of which toy runs none; \
         compile the model with `--target cuda:sm_70`"
    );
}
