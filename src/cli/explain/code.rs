//! `egret explain E0107`: what an error means and what to do, for the code that stands in its message.
//!
//! ```text
//! $ egret explain E0103
//! E0103: nodes that wait for each other
//!
//! The nodes of a graph must not depend on their own results. The nodes that do so are listed.
//!
//! help: Export the model again. State that goes from one run to the next is an input and an output of the model, a loop is the
//! operator Loop or Scan.
//! ```

use egret::{Code, Error, Explanation};
use std::path::Path;

/// Characters of a line.
const WIDTH: usize = 100;

/// The page of a code; `None` for what does not look like one, or is the name of a file.
pub fn page(argument: &Path) -> Option<Result<String, Error>> {
    let number = argument.to_str()?;
    let digits = number.strip_prefix('E')?;
    let is_code = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_code || argument.exists() {
        return None;
    }
    let unknown = || Error::Usage(format!("there is no error `{number}`; `egret list errors` shows those there are"));
    Some(Code::numbered(number).ok_or_else(unknown).map(|code| text(&code.explanation())))
}

fn text(page: &Explanation) -> String {
    let Explanation { number, title, meaning, help } = page;
    format!("{number}: {title}\n\n{}\n\n{}", wrapped(meaning), wrapped(&format!("help: {help}")))
}

/// Words in lines that are no longer than [`WIDTH`].
fn wrapped(text: &str) -> String {
    let mut lines: Vec<String> = vec![];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => *line += &format!(" {word}"),
            _ => lines.push(word.to_string()),
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_pages() {
        for code in Code::ALL {
            let page = page(Path::new(code.number())).unwrap().unwrap();
            assert!(page.starts_with(&format!("{}: ", code.number())) && page.contains("\n\nhelp: "), "{page}");
            assert!(page.lines().all(|line| line.chars().count() <= WIDTH), "{page}");
        }
        assert_eq!(page(Path::new("E0106")).unwrap().unwrap_err().exit_code(), 2);
        for other in ["model.onnx", "E010", "E01070", "e0107", "Eabcd"] {
            assert!(page(Path::new(other)).is_none(), "{other}");
        }
    }
}
