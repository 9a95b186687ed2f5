//! Tensor data in files beside the model (`external_data`: location, offset, length).
//!
//! Invariant: only regular files inside the model's own folder are read. The location comes from an untrusted file, so
//! absolute paths and `..` are refused, and a symbolic link may not lead out of the folder (of the model's path as given, or
//! of the file that it links to: model caches keep both the model and its weights as links into one folder).

use crate::error::FileError;
use crate::mapped::{Contents, Stored};
use onnx_protobuf::TensorProto;
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

/// The files beside a model, each mapped when it is first needed.
pub(crate) struct External {
    model: PathBuf,
    /// Whether the model came from this path, and not from memory.
    on_disk: bool,
    files: RefCell<HashMap<String, Contents>>,
}

impl External {
    /// The files in the folder of this model.
    pub(crate) fn beside(model: &Path) -> External {
        External { model: model.into(), on_disk: true, files: RefCell::default() }
    }

    /// No files; the path stands in messages.
    pub(crate) fn none(model: &Path) -> External {
        External { model: model.into(), on_disk: false, files: RefCell::default() }
    }

    /// The `bytes` bytes of a tensor whose data is external, and their home.
    pub(crate) fn data(&self, proto: &TensorProto, bytes: usize) -> Result<Stored, FileError> {
        let path = &self.model;
        let bad = |path: &Path, found: String, help: &str| FileError {
            path: path.into(),
            found: format!("tensor `{}`: {found}", proto.name),
            help: help.into(),
        };
        let entry = |key: &str| proto.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => text
                .parse::<usize>()
                .map(Some)
                .map_err(|_| bad(path, format!("{key} of its external data is `{text}`, expected a number"), "export the model again")),
        };
        let location = entry("location")
            .filter(|l| !l.is_empty())
            .ok_or_else(|| bad(path, "its data is external, but no file is named".into(), "export the model again"))?;
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        if let Some(length) = length.filter(|l| *l != bytes) {
            return Err(bad(path, format!("its shape takes {bytes} bytes, its external data has {length}"), "export the model again"));
        }
        let file = self.file(location).map_err(|(path, found, help)| bad(&path, found, help))?;
        let end = offset.checked_add(bytes).filter(|end| *end <= file.len());
        let end = end.ok_or_else(|| {
            bad(
                path,
                format!("its data ends at byte {} of `{location}`, which has {}", offset.saturating_add(bytes), file.len()),
                "the file beside the model is cut off; copy it again",
            )
        })?;
        Ok(file.part(offset..end))
    }

    /// A mapped file; on failure the path, what was found, and what to do.
    fn file(&self, location: &str) -> Result<Contents, (PathBuf, String, &'static str)> {
        if let Some(bytes) = self.files.borrow().get(location) {
            return Ok(bytes.clone());
        }
        let model = &self.model;
        if !self.on_disk {
            return Err((
                model.clone(),
                format!("its data lies in the file `{location}`, but the model was given as bytes"),
                "import the model from its path",
            ));
        }
        let inside = Path::new(location).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !inside || location.contains('\\') {
            return Err((
                model.clone(),
                format!("its data lies at `{location}`, expected a relative path inside the model's folder"),
                "keep the weights beside the model and export it again",
            ));
        }
        let path = folder(model).join(location);
        let missing = "put the file beside the model, under the name it had when it was exported";
        let real = path.canonicalize().map_err(|e| (path.clone(), format!("cannot be read: {e}"), missing))?;
        let homes = [folder(model).canonicalize().ok(), model.canonicalize().ok().and_then(|m| m.parent().map(PathBuf::from))];
        if !homes.iter().flatten().any(|home| real.starts_with(home)) {
            return Err((
                path,
                format!("is a link to `{}`, outside of the model's folder", real.display()),
                "replace the link by the file",
            ));
        }
        let contents = Contents::map(&real).map_err(|found| (path, found, missing))?;
        self.files.borrow_mut().insert(location.to_string(), contents.clone());
        Ok(contents)
    }
}

fn folder(model: &Path) -> &Path {
    match model.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnx_protobuf::StringStringEntryProto;
    use std::fs;

    fn proto(entries: &[(&str, &str)]) -> TensorProto {
        let entry =
            |(key, value): &(&str, &str)| StringStringEntryProto { key: key.to_string(), value: value.to_string(), ..Default::default() };
        TensorProto { name: "w".into(), external_data: entries.iter().map(entry).collect(), ..Default::default() }
    }

    #[test]
    fn only_files_of_the_folder_are_read() {
        let root = std::env::temp_dir().join(format!("egret-external-{}", std::process::id()));
        let folder = root.join("model");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("weights"), [1, 2, 3, 4, 5, 6]).unwrap();
        fs::write(root.join("secret"), [0; 6]).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(root.join("secret"), folder.join("link")).unwrap();
        let external = External::beside(&folder.join("m.onnx"));
        let data = |entries: &[(&str, &str)], bytes| external.data(&proto(entries), bytes).map(|stored| stored.bytes);

        assert_eq!(data(&[("location", "weights"), ("offset", "2"), ("length", "3")], 3).unwrap()[..], [3, 4, 5]);
        assert_eq!(data(&[("location", "./weights")], 6).unwrap()[..], [1, 2, 3, 4, 5, 6]);
        let mut errors = vec![];
        for entries in [
            &[("location", "../secret")][..],
            &[("location", "/etc/passwd")],
            &[("location", "link")],
            &[("location", "missing")],
            &[("location", ".")],
            &[("location", "weights"), ("offset", "3")],
            &[("location", "weights"), ("offset", "-1")],
            &[("location", "weights"), ("offset", "18446744073709551615")],
            &[("location", "weights"), ("length", "5")],
            &[("offset", "0")],
        ] {
            errors.push(data(entries, 4).unwrap_err().to_string().replace(&root.display().to_string(), "<root>"));
        }
        fs::remove_dir_all(&root).unwrap();
        insta::assert_snapshot!(errors.join("\n\n"));
    }
}
