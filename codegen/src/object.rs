//! Makes one position-independent image of the objects that LLVM wrote, so that loading code is one mapping.
//!
//! The image holds the loadable sections of every object, code first, with all references between them resolved; they are
//! relative to where they stand, so the image runs at any page-aligned address. **Invariant.** An image refers to nothing
//! outside itself: a symbol that no section defines is an error that names it.
//!
//! ```text
//! a.o: .text 0x80 bytes, .rodata 0x40     image: | a.text | b.text | a.rodata | b.rodata |
//! b.o: .text 0x20 bytes, .rodata 0x10  =>        0        0x80     0xc0       0x100
//! ```

use std::collections::BTreeMap;
use std::fmt;

/// A flat image of code and constants, and where its functions start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// The bytes; they may lie at any page boundary.
    pub code: Vec<u8>,
    /// Offset of each object's entry, in the order of the objects.
    pub entries: Vec<u64>,
}

/// Why an object cannot become part of an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The object asks for something that is not there: LLVM made a library call of an operation.
    #[error("kernel `{object}` refers to `{symbol}`, which is not part of it; code must not call libraries")]
    Undefined {
        /// The object's name.
        object: String,
        /// The symbol's name.
        symbol: String,
    },
    /// A kind of reference that is not known.
    #[error("kernel `{object}` has a relocation of type {kind} for {machine}, which is not supported")]
    Relocation {
        /// The object's name.
        object: String,
        /// ELF's number of the relocation.
        kind: u32,
        /// The architecture.
        machine: Machine,
    },
    /// A reference does not reach.
    #[error("a reference in kernel `{object}` reaches over more than the instruction can say")]
    Range {
        /// The object's name.
        object: String,
    },
    /// Not an object as LLVM writes them.
    #[error("the object of kernel `{object}` is not an ELF object that can be linked: {what}")]
    Malformed {
        /// The object's name.
        object: String,
        /// What is wrong.
        what: &'static str,
    },
}

impl LinkError {
    /// The object it is about.
    pub fn object(&self) -> &str {
        match self {
            LinkError::Undefined { object, .. } | LinkError::Relocation { object, .. } => object,
            LinkError::Range { object } | LinkError::Malformed { object, .. } => object,
        }
    }
}

/// ELF's architectures that are linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// x86-64.
    X86_64,
    /// AArch64.
    Aarch64,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Machine::X86_64 => "x86-64",
            Machine::Aarch64 => "aarch64",
        })
    }
}

/// Links objects; `objects` are a name, the bytes and the symbol of the entry.
///
/// # Errors
/// When an object is not self-contained or not understood.
pub fn link(objects: &[(&str, &[u8], &str)]) -> Result<Image, LinkError> {
    let objects: Vec<(Object, &str)> =
        objects.iter().map(|(name, bytes, entry)| Ok((Object::parse(name, bytes)?, *entry))).collect::<Result<_, _>>()?;
    let mut image = Image::default();
    let mut placed: Vec<BTreeMap<usize, u64>> = vec![BTreeMap::new(); objects.len()];
    for executable in [true, false] {
        for ((object, _), placed) in objects.iter().zip(&mut placed) {
            for section in object.loadable().filter(|s| (s.flags & SHF_EXECINSTR != 0) == executable) {
                placed.insert(section.index, append(&mut image.code, object, section)?);
            }
        }
    }
    for ((object, entry), placed) in objects.iter().zip(&placed) {
        object.relocate(&mut image.code, placed)?;
        image.entries.push(object.address_of(entry, placed)?);
    }
    Ok(image)
}

/// Copies a section to the end of the image and says where it went.
fn append(code: &mut Vec<u8>, object: &Object, section: &Section) -> Result<u64, LinkError> {
    code.resize(code.len().next_multiple_of(section.align.max(1)), 0);
    let at = code.len() as u64;
    match section.kind {
        SHT_NOBITS => code.resize(code.len() + section.size, 0),
        _ => code.extend_from_slice(object.slice(section.offset, section.size)?),
    }
    Ok(at)
}

const SHT_SYMTAB: u32 = 2;
const SHT_RELA: u32 = 4;
const SHT_NOBITS: u32 = 8;
/// Tables for unwinding and notes; kernels never unwind.
const SHT_X86_64_UNWIND: u32 = 0x7000_0001;
const SHF_ALLOC: u64 = 2;
const SHF_EXECINSTR: u64 = 4;
const HEADER_SIZE: usize = 64;
const SYMBOL_SIZE: usize = 24;
const RELA_SIZE: usize = 24;

/// A relocatable ELF64 file, little-endian.
struct Object<'a> {
    name: &'a str,
    bytes: &'a [u8],
    machine: Machine,
    sections: Vec<Section>,
}

/// What is needed of a section header.
#[derive(Clone, Copy)]
struct Section {
    index: usize,
    kind: u32,
    flags: u64,
    offset: usize,
    size: usize,
    link: usize,
    info: usize,
    align: usize,
}

/// A reference to be resolved.
struct Relocation {
    offset: u64,
    kind: u32,
    symbol: usize,
    addend: i64,
}

impl<'a> Object<'a> {
    fn parse(name: &'a str, bytes: &'a [u8]) -> Result<Object<'a>, LinkError> {
        let mut object = Object { name, bytes, machine: Machine::X86_64, sections: vec![] };
        if object.slice(0, 6)? != b"\x7fELF\x02\x01" {
            return Err(object.malformed("it is not 64-bit little-endian ELF"));
        }
        object.machine = match object.u16(0x12)? {
            62 => Machine::X86_64,
            183 => Machine::Aarch64,
            _ => return Err(object.malformed("its architecture is not known")),
        };
        let (start, count) = (object.size(0x28)?, object.u16(0x3c)?.into());
        for index in 0..count {
            let at = start + index * HEADER_SIZE;
            object.sections.push(Section {
                index,
                kind: object.u32(at + 4)?,
                flags: object.u64(at + 8)?,
                offset: object.size(at + 24)?,
                size: object.size(at + 32)?,
                link: object.u32(at + 40)? as usize,
                info: object.u32(at + 44)? as usize,
                align: object.size(at + 48)?,
            });
        }
        Ok(object)
    }

    fn loadable(&self) -> impl Iterator<Item = &Section> {
        self.sections.iter().filter(|s| s.flags & SHF_ALLOC != 0 && s.size > 0 && s.kind != SHT_X86_64_UNWIND)
    }

    fn relocate(&self, code: &mut [u8], placed: &BTreeMap<usize, u64>) -> Result<(), LinkError> {
        for table in self.sections.iter().filter(|s| s.kind == SHT_RELA) {
            let Some(&section) = placed.get(&table.info) else { continue };
            for at in (table.offset..table.offset + table.size).step_by(RELA_SIZE) {
                let info = self.u64(at + 8)?;
                let relocation = Relocation {
                    offset: self.u64(at)?,
                    kind: info as u32,
                    symbol: (info >> 32) as usize,
                    addend: self.u64(at + 16)? as i64,
                };
                let target = self.symbol(table.link, relocation.symbol, placed)? as i64 + relocation.addend;
                self.apply(code, section + relocation.offset, target, relocation.kind)?;
            }
        }
        Ok(())
    }

    /// Writes the reference at `place` to `target`, both offsets into the image.
    fn apply(&self, code: &mut [u8], place: u64, target: i64, kind: u32) -> Result<(), LinkError> {
        let distance = target - place as i64;
        let out_of_range = |_| LinkError::Range { object: self.name.to_string() };
        let at = place as usize;
        match (self.machine, kind) {
            // R_X86_64_PC32, R_X86_64_PLT32
            (Machine::X86_64, 2 | 4) => write(code, at, &i32::try_from(distance).map_err(out_of_range)?.to_le_bytes()),
            // R_X86_64_PC64
            (Machine::X86_64, 24) => write(code, at, &distance.to_le_bytes()),
            // R_AARCH64_PREL32
            (Machine::Aarch64, 261) => write(code, at, &i32::try_from(distance).map_err(out_of_range)?.to_le_bytes()),
            // R_AARCH64_ADR_PREL_PG_HI21: the image lies at a page boundary, so its pages are the machine's.
            (Machine::Aarch64, 275) => {
                let pages = ((target & !0xfff) - (place as i64 & !0xfff)) >> 12;
                let pages = i32::try_from(pages).map_err(out_of_range)? as u32;
                patch(code, at, (pages & 3) << 29 | (pages >> 2 & 0x7ffff) << 5);
            }
            // R_AARCH64_ADD_ABS_LO12_NC and R_AARCH64_LDST{8,16,32,64,128}_ABS_LO12_NC: the low bits, scaled.
            (Machine::Aarch64, 277 | 278) => patch(code, at, (target as u32 & 0xfff) << 10),
            (Machine::Aarch64, 284) => patch(code, at, (target as u32 & 0xfff) >> 1 << 10),
            (Machine::Aarch64, 285) => patch(code, at, (target as u32 & 0xfff) >> 2 << 10),
            (Machine::Aarch64, 286) => patch(code, at, (target as u32 & 0xfff) >> 3 << 10),
            (Machine::Aarch64, 299) => patch(code, at, (target as u32 & 0xfff) >> 4 << 10),
            // R_AARCH64_JUMP26, R_AARCH64_CALL26
            (Machine::Aarch64, 282 | 283) => {
                let words = i32::try_from(distance >> 2).map_err(out_of_range)? as u32;
                patch(code, at, words & 0x3ff_ffff);
            }
            (machine, kind) => return Err(LinkError::Relocation { object: self.name.to_string(), kind, machine }),
        }
        Ok(())
    }

    /// The place of a symbol in the image.
    fn symbol(&self, table: usize, number: usize, placed: &BTreeMap<usize, u64>) -> Result<u64, LinkError> {
        let table = *self.sections.get(table).ok_or_else(|| self.malformed("a symbol table is missing"))?;
        let at = table.offset + number * SYMBOL_SIZE;
        let section = usize::from(self.u16(at + 6)?);
        match placed.get(&section) {
            Some(base) => Ok(base + self.u64(at + 8)?),
            None => Err(LinkError::Undefined { object: self.name.to_string(), symbol: self.symbol_name(table, at)?.to_string() }),
        }
    }

    fn symbol_name(&self, table: Section, at: usize) -> Result<&'a str, LinkError> {
        let strings = *self.sections.get(table.link).ok_or_else(|| self.malformed("a string table is missing"))?;
        let start = strings.offset + self.u32(at)? as usize;
        let rest = self.bytes.get(start..).unwrap_or_default();
        let end = rest.iter().position(|&b| b == 0).unwrap_or(rest.len());
        std::str::from_utf8(&rest[..end]).map_err(|_| self.malformed("a name is not UTF-8"))
    }

    fn address_of(&self, entry: &str, placed: &BTreeMap<usize, u64>) -> Result<u64, LinkError> {
        for table in self.sections.iter().filter(|s| s.kind == SHT_SYMTAB) {
            for number in 1..table.size / SYMBOL_SIZE {
                let at = table.offset + number * SYMBOL_SIZE;
                // The name of the source file is a symbol too, of no section.
                if placed.contains_key(&usize::from(self.u16(at + 6)?)) && self.symbol_name(*table, at)? == entry {
                    return self.symbol(table.index, number, placed);
                }
            }
        }
        Err(LinkError::Undefined { object: self.name.to_string(), symbol: entry.to_string() })
    }

    fn slice(&self, at: usize, len: usize) -> Result<&'a [u8], LinkError> {
        at.checked_add(len).and_then(|end| self.bytes.get(at..end)).ok_or_else(|| self.malformed("it ends early"))
    }

    fn u16(&self, at: usize) -> Result<u16, LinkError> {
        Ok(u16::from_le_bytes(self.slice(at, 2)?.try_into().expect("2 bytes")))
    }

    fn u32(&self, at: usize) -> Result<u32, LinkError> {
        Ok(u32::from_le_bytes(self.slice(at, 4)?.try_into().expect("4 bytes")))
    }

    fn u64(&self, at: usize) -> Result<u64, LinkError> {
        Ok(u64::from_le_bytes(self.slice(at, 8)?.try_into().expect("8 bytes")))
    }

    fn size(&self, at: usize) -> Result<usize, LinkError> {
        usize::try_from(self.u64(at)?).map_err(|_| self.malformed("a size overflows"))
    }

    fn malformed(&self, what: &'static str) -> LinkError {
        LinkError::Malformed { object: self.name.to_string(), what }
    }
}

fn write(code: &mut [u8], at: usize, bytes: &[u8]) {
    code[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Ors bits into an instruction whose field is zero.
fn patch(code: &mut [u8], at: usize, bits: u32) {
    let word = u32::from_le_bytes(code[at..at + 4].try_into().expect("4 bytes"));
    write(code, at, &(word | bits).to_le_bytes());
}
