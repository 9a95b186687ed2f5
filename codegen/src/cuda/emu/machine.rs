//! Runs an entry point: blocks one after another, their warps interleaved.

use super::WARP;
use super::clocks::Clocks;
use super::copies::Copies;
use super::counters::Counters;
use super::group::{self, Product, Products};
use super::matrix;
use super::memory::{Access, Now, Region};
use super::op::{Element, Kind, Op, Space, Type};
use super::phases::{self, Flight, Phases};
use super::text::{Entry, Instruction, LAUNCHED_ALIGN, Operand};
use super::value::{apply, brain_bits, compare, converted, packed_brains, packed_halves, signed, tf32, truncated, wide};
use std::rc::Rc;

/// How a kernel is started.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// Blocks of the grid.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: usize,
    /// Bytes of shared memory beside what the entry point declares.
    pub shared: usize,
    /// What follows the buffers' addresses among the parameters.
    pub sizes: &'a [i64],
    /// Decides the order of blocks and warps.
    pub seed: u64,
}

/// Buffers lie this far apart, so that no wrong index of one finds another.
const APART: u64 = 1 << 40;

/// What the addresses and the length of a bulk copy are multiples of.
const BULK: u64 = 16;

/// Warp instructions that a launch may take: minutes of interpretation. What takes more has lost its way.
const MOST_STEPS: u64 = 200_000_000;

/// Instructions that a warp runs at most before it is another's turn.
const LONGEST_TURN: u64 = 64;

/// A way that threads of a warp take.
#[derive(Clone, Copy)]
struct Way {
    at: usize,
    /// Where it ends.
    join: usize,
    threads: u32,
}

struct Warp {
    number: usize,
    registers: Vec<[u64; WARP]>,
    /// The innermost way last.
    ways: Vec<Way>,
    /// Threads that have not returned.
    alive: u32,
    /// How many threads it waits for at a barrier.
    waiting: Option<usize>,
    /// The phase of a barrier in shared memory, by address and parity, that it has asked for; and whether it goes on only when that is
    /// over.
    asked: Option<(u64, u64)>,
    blocked: bool,
    /// What lies before the warp's next instruction.
    known: Rc<Clocks>,
    /// What each lane has on its way to shared memory.
    copies: Vec<Copies>,
    products: Products,
    /// Instructions so far; when each register was written by one that is no product; and when products were last given registers.
    clock: u64,
    written: Vec<u64>,
    given: u64,
}

/// A block at work.
struct Machine<'a> {
    entry: &'a Entry,
    parameters: &'a [u64],
    global: &'a mut [Region],
    counters: &'a mut Counters,
    shared: Region,
    block: u32,
    blocks: u32,
    phases: Phases,
    warps: usize,
}

/// A linear congruential generator (Knuth's MMIX).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Runs a kernel on buffers, which are its first parameters.
///
/// # Errors
/// A sentence with the line of the PTX text, the block and the warp, when the kernel does something that it must not.
pub fn run(entry: &Entry, start: Start, buffers: &mut [Vec<u8>]) -> Result<Counters, String> {
    if entry.threads.is_some_and(|t| t != start.threads) {
        return Err(format!("`{}` is for blocks of {:?} threads, not {}", entry.name, entry.threads, start.threads));
    }
    let addresses = (1..=buffers.len() as u64).map(|i| i * APART);
    let parameters: Vec<u64> = addresses.chain(start.sizes.iter().map(|s| *s as u64)).collect();
    if parameters.len() != entry.parameters {
        return Err(format!("`{}` has {} parameters, {} were given", entry.name, entry.parameters, parameters.len()));
    }
    let named = buffers.iter().enumerate().map(|(i, bytes)| Region::new(format!("buffer {i}"), bytes.clone()));
    let (mut global, mut counters, mut random) = (named.collect::<Vec<_>>(), Counters::default(), Random(start.seed));
    let mut blocks: Vec<u32> = (0..start.blocks).collect();
    (1..blocks.len()).rev().for_each(|i| blocks.swap(i, random.below(i as u64 + 1) as usize));
    let mut steps = 0;
    for block in blocks {
        let shared = Region::undefined("shared memory".into(), shared_bytes(entry, start.shared));
        let (global, counters, parameters) = (&mut global[..], &mut counters, &parameters[..]);
        let (blocks, phases, warps) = (start.blocks, Phases::default(), start.threads.div_ceil(WARP));
        let mut machine = Machine { entry, parameters, global, counters, shared, block, blocks, phases, warps };
        machine.run_block(start.threads, &mut random, &mut steps)?;
    }
    buffers.iter_mut().zip(global).for_each(|(buffer, region)| *buffer = region.bytes);
    Ok(counters)
}

/// What the entry point declares, and behind it what the launch gives.
fn shared_bytes(entry: &Entry, launched: usize) -> usize {
    if launched == 0 { entry.shared } else { entry.shared.next_multiple_of(LAUNCHED_ALIGN) + launched }
}

impl Machine<'_> {
    fn run_block(&mut self, threads: usize, random: &mut Random, steps: &mut u64) -> Result<(), String> {
        let mut warps: Vec<Warp> = (0..self.warps).map(|n| self.warp(n, threads)).collect();
        loop {
            self.release(&mut warps)?;
            let ready: Vec<usize> = (0..warps.len()).filter(|&w| self.is_ready(&warps[w])).collect();
            if ready.is_empty() {
                return self.ended(&warps);
            }
            let warp = &mut warps[ready[random.below(ready.len() as u64) as usize]];
            for _ in 0..=random.below(LONGEST_TURN) {
                *steps += 1;
                if *steps > MOST_STEPS {
                    return Err(format!("`{}` has not ended after {MOST_STEPS} steps", self.entry.name));
                }
                self.step(warp)?;
                if !self.is_ready(warp) {
                    break;
                }
            }
        }
    }

    fn is_ready(&self, warp: &Warp) -> bool {
        let is_held = warp.blocked && warp.asked.is_some_and(|(at, parity)| !self.phases.can_be_over(at, parity));
        warp.alive != 0 && warp.waiting.is_none() && !is_held
    }

    fn warp(&self, number: usize, threads: usize) -> Warp {
        let there = (threads - number * WARP).min(WARP);
        let alive = if there == WARP { u32::MAX } else { (1 << there) - 1 };
        let ways = vec![Way { at: 0, join: usize::MAX, threads: alive }];
        let (copies, registers) = (vec![Copies::default(); WARP], vec![[0; WARP]; self.entry.registers]);
        let (written, known) = (vec![0; self.entry.registers], Rc::new(Clocks::of(self.warps)));
        let products = Products::default();
        let (waiting, asked, blocked) = (None, None, false);
        Warp { number, registers, ways, alive, waiting, asked, blocked, known, copies, products, clock: 0, written, given: 0 }
    }

    /// Whether nothing waits or goes on when no warp can do more, and all warps of a group had the same number of products.
    fn ended(&self, warps: &[Warp]) -> Result<(), String> {
        let block = self.block;
        if let Some((at, _)) = warps.iter().filter(|w| w.alive != 0 && w.blocked).find_map(|w| w.asked) {
            return Err(format!("block {block}: {}, and nothing else goes on", self.phases.said(at)));
        }
        let waiting = warps.iter().filter(|w| w.waiting.is_some()).count();
        if waiting > 0 {
            return Err(format!("block {block}: {waiting} of {} warps wait at a barrier, the others have ended", warps.len()));
        }
        let is_whole = |group: &[Warp]| group.iter().all(|w| w.products.started == group[0].products.started && w.products.is_idle());
        match warps.chunks(group::WARPS).all(is_whole) {
            true => self.phases.ended().map_err(|e| format!("block {block}: {e}")),
            false => Err(format!("block {block}: the warps of a group end with different products, or with some that go on")),
        }
    }

    /// Lets the warps go on that wait at a barrier, if all have come that it is for.
    fn release(&mut self, warps: &mut [Warp]) -> Result<(), String> {
        let counts: Vec<usize> = warps.iter().filter_map(|w| w.waiting).collect();
        let Some(&count) = counts.first() else { return Ok(()) };
        if counts.iter().any(|other| *other != count) {
            return Err(format!("block {}: warps wait at one barrier for {counts:?} threads", self.block));
        }
        if counts.len() < count.div_ceil(WARP) {
            return Ok(());
        }
        let mut all = Clocks::of(self.warps);
        for warp in warps.iter_mut().filter(|w| w.waiting.is_some()) {
            warp.meet();
            all.join(&warp.known);
        }
        let all = Rc::new(all);
        for warp in warps.iter_mut().filter(|w| w.waiting.is_some()) {
            (warp.known, warp.waiting) = (all.clone(), None);
        }
        Ok(())
    }

    /// One instruction of the innermost way of a warp.
    fn step(&mut self, warp: &mut Warp) -> Result<(), String> {
        while warp.ways.last().is_some_and(|w| w.at == w.join || w.threads & warp.alive == 0) {
            warp.ways.pop();
        }
        let entry = self.entry;
        let Some(way) = warp.ways.last_mut() else {
            warp.alive = 0;
            return Ok(());
        };
        warp.clock += 1;
        let at = way.at;
        let Some(instruction) = entry.code.get(at) else { return Err(format!("`{}` runs over its end", entry.name)) };
        way.at += 1;
        let here = way.threads & warp.alive;
        let active = here & warp.guarded(instruction);
        match self.counters.instructions.get_mut(&instruction.opcode) {
            Some(count) => *count += 1,
            None => drop(self.counters.instructions.insert(instruction.opcode.clone(), 1)),
        }
        self.execute(warp, instruction, at, here, active)
            .map_err(|e| format!("line {}: `{}`: {e} (block {}, warp {})", instruction.line, instruction.text, self.block, warp.number))
    }

    fn execute(&mut self, warp: &mut Warp, i: &Instruction, at: usize, here: u32, active: u32) -> Result<(), String> {
        warp.check_sums(i)?;
        match i.op {
            Op::Branch => self.branch(warp, i, at, here, active),
            Op::Return => {
                warp.alive &= !active;
                Ok(())
            }
            Op::BlockBarrier if active == warp.alive && active != 0 => {
                let count = i.operands.get(1).map(|count| self.value(warp, count, 0)).transpose()?;
                warp.waiting = Some(count.map_or(self.warps * WARP, |count| count as usize));
                Ok(())
            }
            Op::WarpBarrier if active == warp.alive => {
                warp.meet();
                Ok(())
            }
            Op::BlockBarrier | Op::WarpBarrier => Err(format!("only threads {active:#x} of {:#x} are at this barrier", warp.alive)),
            Op::Shuffle => self.shuffle(warp, i, active),
            Op::LoadMatrices { .. }
            | Op::Multiply(_)
            | Op::Show
            | Op::TryWait
            | Op::StartProduct(..)
            | Op::BeginProducts
            | Op::CommitProducts
            | Op::WaitForProducts
                if active != u32::MAX =>
            {
                Err(format!("threads {active:#x} are at what the whole warp does"))
            }
            Op::LoadMatrices { transposed } => self.load_matrices(warp, i, transposed),
            Op::Multiply(element) => self.multiply(warp, i, element),
            Op::Show => {
                Rc::make_mut(&mut warp.known).show(warp.number, warp.clock);
                Ok(())
            }
            Op::TryWait => self.try_wait(warp, i),
            Op::BeginProducts => {
                warp.given = warp.clock;
                Ok(())
            }
            Op::StartProduct(element, columns) => self.start_product(warp, i, element, columns),
            Op::CommitProducts => {
                warp.products.commit();
                Ok(())
            }
            Op::WaitForProducts => self.wait_for_products(warp, i),
            _ if active == 0 => Ok(()),
            Op::CopyAsync => self.start_copies(warp, i, active),
            Op::CommitCopies => {
                lanes(active).for_each(|lane| warp.copies[lane].commit());
                Ok(())
            }
            Op::WaitForCopies => self.wait_for_copies(warp, i, active),
            Op::MakePhases | Op::Arrive | Op::ArriveExpecting | Op::CopiesArrive | Op::CopyBulk => {
                lanes(active).try_for_each(|lane| self.at_phases(warp, i, lane))
            }
            Op::Load(space, ty, count) => self.load(warp, i, active, space, ty, count),
            Op::Store(space, ty, count) => self.store(warp, i, active, space, ty, count),
            _ => lanes(active).try_for_each(|lane| self.compute(warp, i, lane)),
        }
    }

    fn branch(&mut self, warp: &mut Warp, i: &Instruction, at: usize, here: u32, active: u32) -> Result<(), String> {
        let Some(&Operand::Label(to)) = i.operands.last() else { return Err("a branch goes to a label".into()) };
        let Some(way) = warp.ways.last_mut() else { return Err("there is no way".into()) };
        if active == here {
            way.at = to;
        } else if active != 0 {
            self.counters.parted += 1;
            let join = self.entry.joins[at];
            way.at = join;
            warp.ways.push(Way { at: at + 1, join, threads: here & !active });
            warp.ways.push(Way { at: to, join, threads: active });
        }
        Ok(())
    }

    /// The value of an operand in a lane.
    fn value(&self, warp: &Warp, operand: &Operand, lane: usize) -> Result<u64, String> {
        Ok(match operand {
            Operand::Register(r) => warp.registers[*r][lane],
            Operand::Immediate(v) => *v,
            Operand::Thread => (warp.number * WARP + lane) as u64,
            Operand::Block => self.block.into(),
            Operand::Blocks => self.blocks.into(),
            Operand::Parameter(p) => self.parameters[*p],
            Operand::Address(base, displacement) => self.value(warp, base, lane)?.wrapping_add(*displacement as u64),
            Operand::Label(_) | Operand::Vector(_) => return Err(format!("{operand:?} has no value")),
        })
    }

    fn compute(&self, warp: &mut Warp, i: &Instruction, lane: usize) -> Result<(), String> {
        let (target, sources) = i.operands.split_first().ok_or("no operands")?;
        if let (Op::Move(ty), [Operand::Vector(parts)]) = (i.op, sources) {
            let bits = ty.bits / parts.len() as u32;
            let part = |p: &Operand| Ok::<u64, String>(truncated(Type { bits, ..ty }, self.value(warp, p, lane)?));
            let whole = parts.iter().rev().try_fold(0, |whole, p| Ok::<u64, String>(whole << bits | part(p)?))?;
            return warp.set(target, lane, whole);
        }
        let mut x = [0; 3];
        for (x, source) in x.iter_mut().zip(sources) {
            *x = self.value(warp, source, lane)?;
        }
        if let (Op::Move(ty), Operand::Vector(parts)) = (i.op, target) {
            let bits = ty.bits / parts.len() as u32;
            let narrow = Type { bits, ..ty };
            return (0..).zip(parts).try_for_each(|(n, part)| warp.set(part, lane, truncated(narrow, x[0] >> (n * bits))));
        }
        let found = match i.op {
            Op::Move(ty) => truncated(ty, x[0]),
            Op::Parameter => x[0],
            Op::Apply(function, ty) => apply(function, ty, x)?,
            Op::Wide(ty) => wide(ty, x),
            Op::Compare(how, ty) => compare(how, ty, x[0], x[1]).into(),
            Op::Select(ty) => truncated(ty, if x[2] != 0 { x[0] } else { x[1] }),
            Op::Convert { to, from, rounding } => converted(to, from, rounding, x[0]),
            Op::PackHalves(ty) => packed_halves(ty, x[0], x[1]),
            Op::PackBrains => packed_brains(x[0], x[1]),
            Op::RoundBrain => brain_bits(x[0] as u32),
            Op::AbsBrain => x[0] & 0x7fff,
            Op::NegBrain => x[0] ^ 0x8000,
            Op::RoundTf32 => tf32(x[0]),
            other => return Err(format!("{other:?} is not of one thread")),
        };
        warp.set(target, lane, found)
    }

    fn shuffle(&mut self, warp: &mut Warp, i: &Instruction, active: u32) -> Result<(), String> {
        let [target, source, apart, _, mask] = &i.operands[..] else { return Err("a shuffle has five operands".into()) };
        let values: Vec<u64> = (0..WARP).map(|lane| self.value(warp, source, lane)).collect::<Result<_, _>>()?;
        for lane in lanes(active) {
            let (mask, other) = (self.value(warp, mask, lane)? as u32, lane ^ self.value(warp, apart, lane)? as usize);
            if mask != active || other >= WARP {
                return Err(format!("threads {active:#x} are at a shuffle of {mask:#x}"));
            }
            warp.set(target, lane, values[other])?;
        }
        Ok(())
    }

    fn who(&self, warp: &Warp, lane: usize) -> Now {
        let thread = (warp.number * WARP + lane) as u16;
        Now { access: Access { block: self.block, thread, time: warp.clock, by_engine: false }, known: warp.known.clone() }
    }

    /// What a lane does at a barrier in shared memory, but for waiting.
    fn at_phases(&mut self, warp: &mut Warp, i: &Instruction, lane: usize) -> Result<(), String> {
        let who = self.who(warp, lane);
        let values: Vec<u64> = i.operands.iter().map(|o| self.value(warp, o, lane)).collect::<Result<_, _>>()?;
        match (i.op, &values[..]) {
            (Op::MakePhases, &[at, count]) => {
                // Whoever touches it in another way meets a place that is waited for.
                self.shared.reserve(at, phases::SIZE, &who)?;
                self.phases.make(at, count, self.warps, &who)
            }
            (Op::Arrive, &[_, at, count]) => self.phases.arrive(at, count, 0, &who),
            (Op::ArriveExpecting, &[_, at, bytes]) => self.phases.arrive(at, 1, bytes, &who),
            (Op::CopiesArrive, &[at]) => {
                let flight = Flight { copies: warp.copies[lane].handed_over(), by: who.access, arrives: true };
                self.phases.start(at, flight, &who)
            }
            (Op::CopyBulk, &[to, from, bytes, at]) => self.start_bulk(to, from, bytes, at, who),
            (op, found) => Err(format!("{op:?} with {} operands", found.len())),
        }
    }

    /// What is copied is read now, and arrives when the barrier's phase is asked for.
    fn start_bulk(&mut self, to: u64, from: u64, bytes: u64, at: u64, who: Now) -> Result<(), String> {
        if [to, from, bytes].iter().any(|n| n % BULK != 0) {
            return Err(format!("{bytes} bytes from {from:#x} to {to:#x}: not all are multiples of {BULK}"));
        }
        let mut copies = vec![];
        for piece in (0..bytes).step_by(BULK as usize) {
            let (region, place) = self.region(Space::Global, from + piece)?;
            let found = region.read(place, 1, BULK as usize, &who)?;
            self.shared.reserve(to + piece, BULK as usize, &who)?;
            copies.push((to + piece, found.into_iter().map(|byte| byte as u8).collect()));
        }
        let pieces: Vec<u64> = (0..bytes).step_by(BULK as usize).map(|piece| from + piece).collect();
        self.counters.global(false, &pieces, BULK as usize);
        self.phases.start(at, Flight { copies, by: Access { by_engine: true, ..who.access }, arrives: false }, &who)
    }

    /// Asks whether a phase is over; whoever asks again goes on when it is.
    fn try_wait(&mut self, warp: &mut Warp, i: &Instruction) -> Result<(), String> {
        let [target, at, parity] = &i.operands[..] else { return Err("a question for a phase has three operands".into()) };
        let (asked, who) = ((self.value(warp, at, 0)?, self.value(warp, parity, 0)?), self.who(warp, 0));
        let is_first = warp.asked.replace(asked) != Some(asked);
        for lane in 0..WARP {
            if (self.value(warp, at, lane)?, self.value(warp, parity, lane)?) != asked {
                return Err("the lanes of a warp ask for several phases".into());
            }
        }
        let needed = !is_first && self.phases.over(asked.0, asked.1, &who)?.is_none();
        for flight in if needed { self.phases.landed(asked.0) } else { vec![] } {
            flight.copies.iter().try_for_each(|(to, content)| self.shared.arrive(*to, content, flight.by))?;
        }
        let over = self.phases.over(asked.0, asked.1, &who)?.filter(|_| !is_first);
        if let Some(known) = over {
            Rc::make_mut(&mut warp.known).join(known);
            warp.asked = None;
        }
        warp.blocked = over.is_none() && !is_first;
        let found = u64::from(over.is_some());
        (0..WARP).try_for_each(|lane| warp.set(target, lane, found))
    }

    /// What is copied is read now, and arrives when it is waited for.
    fn start_copies(&mut self, warp: &mut Warp, i: &Instruction, active: u32) -> Result<(), String> {
        let ([to, from, bytes], rest) = i.operands.split_first_chunk().ok_or("a copy has three operands or four")?;
        let (mut read, mut written) = (vec![], vec![]);
        for lane in lanes(active) {
            let (to, from, who) = (self.value(warp, to, lane)?, self.value(warp, from, lane)?, self.who(warp, lane));
            let bytes = self.value(warp, bytes, lane)? as usize;
            let inside = rest.first().map_or(Ok(bytes), |n| self.value(warp, n, lane).map(|n| n as u32 as usize))?;
            if inside > bytes || from % bytes as u64 != 0 && inside > 0 {
                return Err(format!("{inside} of {bytes} bytes at {from:#x}: not a copy"));
            }
            let mut content = vec![0; bytes];
            if inside > 0 {
                let (region, at) = self.region(Space::Global, from)?;
                let found = region.read(at, 1, inside, &who)?;
                content.iter_mut().zip(found).for_each(|(byte, value)| *byte = value as u8);
                read.push(from);
            }
            self.shared.reserve(to, bytes, &who)?;
            warp.copies[lane].start(to, content);
            written.push(to);
        }
        let bytes = self.value(warp, bytes, 0)? as usize;
        if !read.is_empty() {
            self.counters.global(false, &read, bytes);
        }
        self.counters.shared_by_eight(&written, bytes);
        Ok(())
    }

    fn wait_for_copies(&mut self, warp: &mut Warp, i: &Instruction, active: u32) -> Result<(), String> {
        let [groups] = &i.operands[..] else { return Err("a wait for copies has one operand".into()) };
        for lane in lanes(active) {
            let (groups, who) = (self.value(warp, groups, lane)? as usize, self.who(warp, lane));
            for (to, content) in warp.copies[lane].arrived(groups) {
                self.shared.arrive(to, &content, who.access)?;
            }
        }
        Ok(())
    }

    fn load_matrices(&mut self, warp: &mut Warp, i: &Instruction, transposed: bool) -> Result<(), String> {
        let [Operand::Vector(targets), source] = &i.operands[..] else { return Err("matrices go to registers".into()) };
        let accesses = self.accesses(warp, source, u32::MAX)?;
        let addresses: Vec<u64> = accesses.iter().map(|(_, at, _)| *at).collect();
        self.counters.shared_by_eight(&addresses, matrix::ROW);
        let mut rows = vec![];
        for (_, address, who) in accesses {
            rows.push(self.shared.read(address, 2, matrix::ROW / 2, &who)?);
        }
        for (target, rows) in targets.iter().zip(rows.chunks(matrix::ROWS)) {
            (0..WARP).try_for_each(|lane| warp.set(target, lane, matrix::word(rows, lane, transposed)))?;
        }
        Ok(())
    }

    fn multiply(&mut self, warp: &mut Warp, i: &Instruction, element: Element) -> Result<(), String> {
        let [Operand::Vector(targets), operands @ ..] = &i.operands[..] else { return Err("sums go to registers".into()) };
        let registers = |operand: &Operand| -> Result<Vec<[u64; WARP]>, String> {
            let Operand::Vector(parts) = operand else { return Err("operands are registers".into()) };
            let of = |part: &Operand| -> Result<[u64; WARP], String> {
                if let Operand::Register(r) = part {
                    return Ok(warp.registers[*r]);
                }
                let mut values = [0; WARP];
                values.iter_mut().enumerate().try_for_each(|(lane, v)| self.value(warp, part, lane).map(|value| *v = value))?;
                Ok(values)
            };
            parts.iter().map(of).collect()
        };
        let [a, b, sums] = operands else { return Err("a product has three operands".into()) };
        let found = matrix::product(element, &registers(a)?, &registers(b)?, &registers(sums)?)?;
        let mut pairs = targets.iter().zip(found);
        pairs.try_for_each(|(target, values)| (0..WARP).try_for_each(|lane| warp.set(target, lane, values[lane])))
    }

    fn start_product(&mut self, warp: &mut Warp, i: &Instruction, element: Element, columns: usize) -> Result<(), String> {
        let [Operand::Vector(sums), a, b, keeps, signs @ ..] = &i.operands[..] else { return Err("sums go to registers".into()) };
        let numbers = [keeps].into_iter().chain(signs).map(|o| self.value(warp, o, 0)).collect::<Result<Vec<_>, _>>()?;
        let &[1, 1, 1, turned_a, turned_b] = &numbers[..] else { return Err("it adds what it multiplies, as it is".into()) };
        let register = |sum: &Operand| if let Operand::Register(r) = sum { Ok(*r) } else { Err(format!("{sum:?} is no register")) };
        let sums: Vec<usize> = sums.iter().map(register).collect::<Result<_, _>>()?;
        if sums.len() * 2 != columns {
            return Err(format!("{} registers for {columns} columns", sums.len()));
        }
        if let Some(register) = sums.iter().find(|r| warp.written[**r] > warp.given) {
            return Err(format!("register {register} was written, and no `wgmma.fence` lies between"));
        }
        let described = |operand, turned| group::Operand::described(self.value(warp, operand, 0)?, turned == 1);
        let product = Product { element, columns, sums, operands: [described(a, turned_a)?, described(b, turned_b)?] };
        let who = self.who(warp, 0);
        product.read(&mut self.shared, &who)?;
        warp.products.start(product)
    }

    fn wait_for_products(&mut self, warp: &mut Warp, i: &Instruction) -> Result<(), String> {
        let [groups] = &i.operands[..] else { return Err("a wait for products has one operand".into()) };
        let groups = self.value(warp, groups, 0)? as usize;
        for product in warp.products.done(groups) {
            let who = self.who(warp, 0);
            let operands = product.read(&mut self.shared, &who)?;
            product.add(operands, &mut warp.registers)?;
        }
        Ok(())
    }

    /// The addresses that a warp accesses, and who does.
    fn accesses(&self, warp: &Warp, operand: &Operand, active: u32) -> Result<Vec<(usize, u64, Now)>, String> {
        let access = |lane| Ok((lane, self.value(warp, operand, lane)?, self.who(warp, lane)));
        lanes(active).map(access).collect()
    }

    fn region(&mut self, space: Space, address: u64) -> Result<(&mut Region, u64), String> {
        match space {
            Space::Shared => Ok((&mut self.shared, address)),
            Space::Global => {
                // Somewhat before the start of a buffer is still an index of that buffer.
                let number = (address + APART / 2) / APART;
                let region = usize::try_from(number).ok().and_then(|n| self.global.get_mut(n.checked_sub(1)?));
                Ok((region.ok_or_else(|| format!("{address:#x} is in no buffer"))?, address.wrapping_sub(number * APART)))
            }
        }
    }

    fn count(&mut self, space: Space, store: bool, accesses: &[(usize, u64, Now)], bytes: usize) {
        let addresses: Vec<u64> = accesses.iter().map(|(_, at, _)| *at).collect();
        match space {
            Space::Global => self.counters.global(store, &addresses, bytes),
            Space::Shared => self.counters.shared(&addresses, bytes),
        }
    }

    fn load(&mut self, warp: &mut Warp, i: &Instruction, active: u32, space: Space, ty: Type, count: usize) -> Result<(), String> {
        let [target, source] = &i.operands[..] else { return Err("a load has two operands".into()) };
        let accesses = self.accesses(warp, source, active)?;
        self.count(space, false, &accesses, ty.size() * count);
        for (lane, address, who) in accesses {
            let (region, at) = self.region(space, address)?;
            let values = region.read(at, ty.size(), count, &who)?;
            // Registers are wider than what they hold: numbers with a sign keep it.
            let values = values.into_iter().map(|v| if ty.kind == Kind::Signed { signed(ty, v) as u64 } else { v });
            match target {
                Operand::Vector(parts) => parts.iter().zip(values).try_for_each(|(p, v)| warp.set(p, lane, v))?,
                one => values.into_iter().try_for_each(|v| warp.set(one, lane, v))?,
            }
        }
        Ok(())
    }

    fn store(&mut self, warp: &mut Warp, i: &Instruction, active: u32, space: Space, ty: Type, count: usize) -> Result<(), String> {
        let [target, source] = &i.operands[..] else { return Err("a store has two operands".into()) };
        let accesses = self.accesses(warp, target, active)?;
        self.count(space, true, &accesses, ty.size() * count);
        for (lane, address, who) in accesses {
            let values: Vec<u64> = match source {
                Operand::Vector(parts) => parts.iter().map(|p| self.value(warp, p, lane)).collect::<Result<_, _>>()?,
                one => vec![self.value(warp, one, lane)?],
            };
            let (region, at) = self.region(space, address)?;
            region.write(at, ty.size(), &values, &who)?;
        }
        Ok(())
    }
}

impl Warp {
    /// Its lanes see what each of them did.
    fn meet(&mut self) {
        Rc::make_mut(&mut self.known).meet(self.number, self.clock);
    }

    /// The lanes whose predicate lets an instruction happen.
    fn guarded(&self, i: &Instruction) -> u32 {
        let Some((predicate, negated)) = i.guard else { return u32::MAX };
        (0..WARP).filter(|&lane| (self.registers[predicate][lane] != 0) != negated).fold(0, |mask, lane| mask | 1 << lane)
    }

    /// Whether an instruction leaves alone what products change that go on; the sums of one may be those of the next.
    fn check_sums(&self, i: &Instruction) -> Result<(), String> {
        if self.products.is_idle() || matches!(i.op, Op::StartProduct(..)) {
            return Ok(());
        }
        let mut touched = i.operands.iter().flat_map(Operand::registers);
        touched.find(|r| self.products.changes(*r)).map_or(Ok(()), |r| Err(format!("register {r} has a sum of a product that goes on")))
    }

    fn set(&mut self, target: &Operand, lane: usize, value: u64) -> Result<(), String> {
        match target {
            Operand::Register(r) => {
                self.registers[*r][lane] = value;
                self.written[*r] = self.clock;
                Ok(())
            }
            other => Err(format!("{other:?} cannot be written")),
        }
    }
}

fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..WARP).filter(move |lane| mask >> lane & 1 == 1)
}
