//! `egret test`: test cases of the ONNX standard, through compiled code.
//!
//! ```text
//! $ egret test node --filter relu
//! operator          cases   passed   failed   unsupported
//! LeakyRelu             3        3        0             0
//! Relu                  5        5        0             0
//! ...
//! 15 passed, 0 failed, 0 unsupported
//! ```
//!
//! A case counts for every operator of its model. Tolerances stand in a `cases.json` beside the cases, or are those of ONNX's own
//! runner. **Invariant.** Cases run in processes of their own, so one that ends its process is a failed case and no more.

use super::options::{JsonOption, parse_threads};
use super::report;
use super::table::{Align, columns};
use egret::{Error, Tolerance, Verdict, run_case};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

/// The arguments of `egret test`.
#[derive(clap::Args)]
pub struct Args {
    /// Folders that hold a case (model.onnx and test_data_set_0), or hold such folders
    #[arg(value_name = "DIR", required_unless_present = "worker")]
    folders: Vec<PathBuf>,
    /// Run only cases whose name contains TEXT
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// Compile every op to a kernel of its own
    #[arg(long)]
    no_fuse: bool,
    /// Processor to compile for
    #[arg(long, value_name = "CPU", default_value = "native")]
    target: String,
    /// Cases to run at the same time [default: as many as this process may use processors]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    jobs: Option<usize>,
    #[command(flatten)]
    json: JsonOption,
    /// Run the cases that are named on stdin, one a line: what the processes of this verb do
    #[arg(long, hide = true)]
    worker: bool,
}

const SCHEMA: &str = "egret.test/1";

/// A case that takes longer than this hangs: the slowest take a second.
const LONGEST: Duration = Duration::from_secs(120);

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    fused: bool,
    passed: usize,
    failed: usize,
    unsupported: usize,
    cases: Vec<Tested>,
}

/// What became of a case.
#[derive(Clone, Debug, Serialize)]
struct Tested {
    name: String,
    operators: Vec<String>,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Passed,
    Failed,
    Unsupported,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    status: Status,
    /// Why it did not pass.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    /// Inputs that were made constants, since shapes depend on their data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fixed: Vec<String>,
}

/// A line to a worker.
#[derive(Serialize, Deserialize)]
struct Order {
    folder: PathBuf,
    relative: f64,
    absolute: f64,
}

/// Finds the cases, runs them in worker processes, and reports.
pub fn run(args: Args) -> Result<(), Error> {
    if args.worker {
        return work(&args);
    }
    let cases = find(&args)?;
    let tested = run_all(&args, &cases)?;
    let count = |status| tested.iter().filter(|case| case.outcome.status == status).count();
    let [passed, failed, unsupported] = [Status::Passed, Status::Failed, Status::Unsupported].map(count);
    let report = Report { schema: SCHEMA, fused: !args.no_fuse, passed, failed, unsupported, cases: tested };
    if !args.json.takes_stdout() {
        report::result(text(&report))?;
    }
    if let Some(path) = &args.json.json {
        report::json(path, &report)?;
    }
    match failed {
        0 => Ok(()),
        _ => Err(Error::Check(format!("{failed} of {} cases failed", report.cases.len()))),
    }
}

/// The cases below the folders, by name.
fn find(args: &Args) -> Result<Vec<Order>, Error> {
    let (mut folders, mut tolerances) = (vec![], HashMap::new());
    for folder in &args.folders {
        search(folder, &mut folders, &mut tolerances)?;
    }
    folders.retain(|folder| name(folder).contains(&args.filter));
    folders.sort();
    if folders.is_empty() {
        return Err(Error::Usage("there is no test case (a folder with model.onnx and test_data_set_0) in what was given".to_string()));
    }
    let order = |folder: PathBuf| {
        let Tolerance { relative, absolute } = tolerances.get(&name(&folder)).copied().unwrap_or_default();
        Order { folder, relative, absolute }
    };
    Ok(folders.into_iter().map(order).collect())
}

/// Looks for cases, and for `cases.json`, in a folder, its folders, and (for the latter) the folder it is in.
fn search(folder: &Path, found: &mut Vec<PathBuf>, tolerances: &mut HashMap<String, Tolerance>) -> Result<(), Error> {
    let parent = folder.canonicalize().ok().and_then(|path| path.parent().map(Path::to_path_buf));
    for beside in [Some(folder.to_path_buf()), parent].into_iter().flatten() {
        read_tolerances(&beside.join("cases.json"), tolerances)?;
    }
    if folder.join("model.onnx").is_file() {
        found.push(folder.to_path_buf());
        return Ok(());
    }
    let unreadable = |error: std::io::Error| Error::File(format!("{}: {error}", folder.display()));
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.join("model.onnx").is_file() {
            found.push(path);
        } else if path.is_dir() {
            search(&path, found, tolerances)?;
        }
    }
    Ok(())
}

/// What `cases.json` says of a case.
#[derive(Deserialize)]
struct Described {
    name: String,
    rtol: f64,
    atol: f64,
}

fn read_tolerances(path: &Path, tolerances: &mut HashMap<String, Tolerance>) -> Result<(), Error> {
    if !path.is_file() {
        return Ok(());
    }
    let text = std::fs::read_to_string(path).map_err(|error| Error::File(format!("{}: {error}", path.display())))?;
    let cases: Vec<Described> = serde_json::from_str(&text).map_err(|error| {
        Error::File(format!("{}: {error}; a list of records with `name`, `rtol` and `atol` is expected", path.display()))
    })?;
    tolerances.extend(cases.into_iter().map(|case| (case.name, Tolerance { relative: case.rtol, absolute: case.atol })));
    Ok(())
}

fn name(folder: &Path) -> String {
    let named = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    named.file_name().unwrap_or(named.as_os_str()).to_string_lossy().into_owned()
}

/// Runs the cases on several workers at once; the results are in the order of the cases.
fn run_all(args: &Args, cases: &[Order]) -> Result<Vec<Tested>, Error> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = args.jobs.unwrap_or(processors).min(cases.len());
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(vec![None; cases.len()]));
    std::thread::scope(|scope| {
        let serve = || -> Result<(), Error> {
            let mut worker = None;
            while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                let running = match worker.take() {
                    Some(worker) => worker,
                    None => Worker::start(args)?,
                };
                let (outcome, alive) = running.run(case);
                worker = alive;
                let at = cases.iter().position(|other| other.folder == case.folder).unwrap_or(0);
                outcomes.lock().unwrap_or_else(|lock| lock.into_inner())[at] = Some(outcome);
            }
            Ok(())
        };
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(serve)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| Error::Bug("a thread that runs test cases panicked".to_string()))?)
    })?;
    let outcomes = outcomes.into_inner().unwrap_or_else(|lock| lock.into_inner());
    Ok(cases.iter().zip(outcomes.into_iter().flatten()).map(|(case, outcome)| tested(case, outcome)).collect())
}

fn tested(case: &Order, outcome: Outcome) -> Tested {
    let operators = egret::operators(&case.folder.join("model.onnx")).unwrap_or_default();
    Tested { name: name(&case.folder), operators: operators.into_iter().collect(), outcome }
}

/// A process that runs cases one after another.
struct Worker {
    process: Child,
    orders: ChildStdin,
    answers: mpsc::Receiver<String>,
}

impl Worker {
    fn start(args: &Args) -> Result<Worker, Error> {
        let failed = |error: std::io::Error| Error::Resource(format!("cannot start a process to run test cases: {error}"));
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args(["test", "--worker", "--target", &args.target]).args(args.no_fuse.then_some("--no-fuse"));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let (Some(orders), Some(stdout)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(Error::Resource("a process to run test cases has no pipes".to_string()));
        };
        let (sender, answers) = mpsc::channel();
        // Ends with the process, whose stdout ends then.
        std::thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Worker { process, orders, answers })
    }

    /// Runs a case. A worker that is left can run the next one.
    fn run(mut self, case: &Order) -> (Outcome, Option<Worker>) {
        let sent = serde_json::to_string(case).is_ok_and(|line| writeln!(self.orders, "{line}").is_ok());
        let answer = self.answers.recv_timeout(if sent { LONGEST } else { Duration::ZERO });
        if let Some(outcome) = answer.as_ref().ok().and_then(|line| serde_json::from_str(line).ok()) {
            return (outcome, Some(self));
        }
        let reason = match answer {
            Err(mpsc::RecvTimeoutError::Timeout) if sent => format!("it takes longer than {LONGEST:?}"),
            _ => "its process ended; what it said stands on stderr".to_string(),
        };
        // Either fails only if the process has ended.
        let _ = self.process.kill();
        let ended = self.process.wait().map_or_else(|_| String::new(), |status| format!(" ({status})"));
        (Outcome { status: Status::Failed, reason: reason + &ended, fixed: vec![] }, None)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Either fails only if the process has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Answers every line of stdin with a line on stdout.
fn work(args: &Args) -> Result<(), Error> {
    let broken = |error: std::io::Error| Error::File(format!("stdin: {error}"));
    for line in std::io::stdin().lines() {
        let order: Order = serde_json::from_str(&line.map_err(broken)?).map_err(|error| Error::Usage(format!("stdin: {error}")))?;
        let tolerance = Tolerance { relative: order.relative, absolute: order.absolute };
        let outcome = outcome(run_case(&order.folder, &args.target, !args.no_fuse, tolerance));
        report::result(serde_json::to_string(&outcome).map_err(|error| Error::File(format!("stdout: {error}")))?)?;
    }
    Ok(())
}

fn outcome(verdict: Result<Verdict, Error>) -> Outcome {
    let (status, reason, fixed) = match verdict {
        Ok(Verdict::Passed(fixed)) => (Status::Passed, String::new(), fixed),
        Ok(Verdict::Failed(why)) => (Status::Failed, why, vec![]),
        Ok(Verdict::Unsupported(why)) => (Status::Unsupported, why, vec![]),
        Err(error) => (Status::Failed, error.to_string(), vec![]),
    };
    Outcome { status, reason, fixed }
}

fn text(report: &Report) -> String {
    let mut operators: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for case in &report.cases {
        case.operators.iter().for_each(|operator| operators.entry(operator).or_default()[case.outcome.status as usize] += 1);
    }
    let header = ["operator", "cases", "passed", "failed", "unsupported"];
    let header = header.map(|name| (name, if name == "operator" { Align::Left } else { Align::Right }));
    let row = |(operator, counts): (&str, [usize; 3])| {
        let numbers = [counts.iter().sum()].into_iter().chain(counts).map(|count: usize| count.to_string());
        [operator.to_string()].into_iter().chain(numbers).collect::<Vec<String>>()
    };
    let table = columns(&header, operators.into_iter().map(row));
    let not_passed = report.cases.iter().filter(|case| case.outcome.status == Status::Failed);
    let reasons: String = not_passed.map(|case| format!("FAILED {}: {}\n", case.name, first_line(&case.outcome.reason))).collect();
    format!("{table}{reasons}{} passed, {} failed, {} unsupported\n", report.passed, report.failed, report.unsupported)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_counts_for_each_of_its_operators() {
        let case = |name: &str, status, operators: &[&str]| Tested {
            name: name.to_string(),
            operators: operators.iter().map(|o| o.to_string()).collect(),
            outcome: Outcome { status, reason: "first\nsecond".to_string(), fixed: vec![] },
        };
        let cases = vec![case("a", Status::Passed, &["Add"]), case("b", Status::Failed, &["Add", "Mul"])];
        let report = Report { schema: SCHEMA, fused: true, passed: 1, failed: 1, unsupported: 0, cases };
        let expected = "\
operator   cases   passed   failed   unsupported
Add            2        1        1             0
Mul            1        0        1             0
FAILED b: first
1 passed, 1 failed, 0 unsupported
";
        assert_eq!(text(&report), expected);
    }
}
