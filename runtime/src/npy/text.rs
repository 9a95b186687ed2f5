//! Strings in `.npy` files: as many characters for each, NULs behind the shorter ones.
//!
//! ```text
//! <U5, >U5    5 characters of 4 bytes, UTF-32
//! |S7         7 bytes, UTF-8 here
//! |O          Python objects, which only Python reads
//! ```

use crate::error::Result;
use crate::tensor::Tensor;

/// How the strings of a file are stored.
#[derive(Clone, Copy)]
pub(super) enum Stored {
    Characters { each: usize, big_endian: bool },
    Bytes { each: usize },
}

impl Stored {
    /// What the header says, if it is strings.
    pub(super) fn of(descr: &str) -> Option<Stored> {
        let code = descr.strip_prefix(['<', '>', '|', '=']).unwrap_or(descr);
        let each = code.get(1..)?.parse().ok()?;
        match code.get(..1)? {
            "U" => Some(Stored::Characters { each, big_endian: descr.starts_with('>') }),
            "S" => Some(Stored::Bytes { each }),
            _ => None,
        }
    }

    fn width(self) -> Option<usize> {
        match self {
            Stored::Characters { each, .. } => each.checked_mul(4),
            Stored::Bytes { each } => Some(each),
        }
    }

    /// The tensor of the elements that follow the header.
    pub(super) fn read(self, shape: &[usize], data: &[u8]) -> Result<Tensor, String> {
        let count = shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent));
        let expected = count.zip(self.width()).and_then(|(count, width)| count.checked_mul(width));
        let (Some(count), Some(width), Some(expected)) = (count, self.width(), expected) else {
            return Err(format!("strings of shape {shape:?} are too large"));
        };
        if width == 0 && count > 0 {
            return Err(format!("{count} strings have room for no character"));
        }
        let found = data.len();
        let data = data.get(..expected).ok_or_else(|| format!("the strings have {expected} bytes, but only {found} follow the header"))?;
        let strings = data.chunks_exact(width.max(1)).map(|element| self.string(element));
        let strings = strings.collect::<Result<Vec<String>, String>>()?;
        Tensor::from_strings(shape, &strings).map_err(|e| e.to_string())
    }

    fn string(self, element: &[u8]) -> Result<String, String> {
        let length = |zeros: &dyn Fn(usize) -> bool, count: usize| (0..count).rev().find(|&i| !zeros(i)).map_or(0, |last| last + 1);
        match self {
            Stored::Bytes { .. } => {
                let used = &element[..length(&|i| element[i] == 0, element.len())];
                let text = std::str::from_utf8(used).map_err(|_| "a string is not UTF-8; save the array as numpy.str_".to_string())?;
                Ok(text.to_string())
            }
            Stored::Characters { big_endian, .. } => {
                let units = element.as_chunks().0;
                let code = |&unit: &[u8; 4]| if big_endian { u32::from_be_bytes(unit) } else { u32::from_le_bytes(unit) };
                let used = &units[..length(&|i| units[i] == [0; 4], units.len())];
                let text: Option<String> = used.iter().map(|unit| char::from_u32(code(unit))).collect();
                text.ok_or_else(|| "a string has a character that Unicode does not have".to_string())
            }
        }
    }
}

/// The type code and the elements of strings to be written, little-endian. NULs at the end of a string are lost, as in NumPy.
pub(super) fn written(strings: &[&str]) -> (String, Vec<u8>) {
    let each = strings.iter().map(|text| text.chars().count()).max().unwrap_or(0).max(1);
    let mut data = Vec::with_capacity(strings.len() * each * 4);
    for text in strings {
        let end = data.len() + each * 4;
        data.extend(text.chars().flat_map(|c| u32::from(c).to_le_bytes()));
        data.resize(end, 0);
    }
    (format!("<U{each}"), data)
}

#[cfg(test)]
mod tests {
    use super::super::{from_bytes, tests::npy, write_to};
    use crate::tensor::Tensor;

    fn strings(file: &[u8]) -> Result<Vec<String>, String> {
        from_bytes(file).map(|tensor| tensor.strings().unwrap().into_iter().map(str::to_string).collect())
    }

    #[test]
    fn strings_come_back() {
        for (shape, texts) in [(vec![3], vec!["red", "", "Grüße \u{1f600}"]), (vec![2, 0], vec![]), (vec![], vec!["x"])] {
            let tensor = Tensor::from_strings(&shape, &texts).unwrap();
            let mut file = vec![];
            write_to(&tensor, &mut file).unwrap();
            assert_eq!(from_bytes(&file), Ok(tensor));
            assert_eq!(strings(&file).unwrap(), texts);
        }
    }

    #[test]
    fn bytes_orders_and_layouts_are_read() {
        let header = |descr: &str, fortran: &str| format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': (2, 2), }}");
        let by_rows = ["a", "bc", "", "d"];
        assert_eq!(strings(&npy(&header("|S2", "False"), b"a\0bc\0\0d\0")).unwrap(), by_rows);
        assert_eq!(strings(&npy(&header("|S2", "True"), b"a\0\0\0bcd\0")).unwrap(), by_rows);
        let big: Vec<u8> = "a\0bc\0\0d\0".chars().flat_map(|c| u32::from(c).to_be_bytes()).collect();
        assert_eq!(strings(&npy(&header(">U2", "False"), &big)).unwrap(), by_rows);
    }

    #[test]
    fn what_cannot_be_read_is_a_sentence() {
        let check = |descr: &str, shape: &str, data: &[u8], expected: &str| {
            let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
            let problem = strings(&npy(&header, data)).unwrap_err();
            assert!(problem.contains(expected), "`{expected}` in `{problem}`");
        };
        check("|O", "(2,)", b"\x80\x04", "Python objects");
        check("<U3", "(2,)", &[0; 23], "have 24 bytes, but only 23 follow");
        check("<U0", "(4294967296,)", &[], "room for no character");
        check("<U4294967296", "(4294967296, 4294967296)", &[], "too large");
        check("|S1", "(1,)", &[0xff], "not UTF-8");
        check("<U1", "(1,)", &[0, 0, 0x11, 0], "Unicode does not have");
    }
}
