//! The reader of the tree. It collects all problems instead of stopping at the first.
//!
//! Owns: reading and interpolating scalars, lists and sections, and their errors; unknown keys.
//! Never touches: the meaning of a particular key (`resolve`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::diagnostics::{Problem, SourceLocation, ValueError, Warning, WarningKind};
use crate::config::env::{self, Env};
use crate::config::file::{Entry, Node, Value};
use crate::config::file_source::{Contents, FileSource};
use crate::config::keyword::{nearest, new_name};

/// The reader: its sources, and the problems and warnings found so far.
pub(crate) struct Reader<'a> {
    name: Arc<str>,
    pub(crate) env: &'a Env,
    files: &'a dyn FileSource,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Warning>,
}

/// A value with its location, for rules over several values.
#[derive(Debug, Clone)]
pub(crate) struct Spanned<T> {
    pub(crate) value: T,
    pub(crate) place: SourceLocation,
    pub(crate) path: String,
}

/// A scalar after interpolation.
struct Interpolated<'t> {
    /// The text in the file.
    written: &'t str,
    /// The text after interpolation.
    value: std::borrow::Cow<'t, str>,
}

impl<'a> Reader<'a> {
    /// A reader of the file `name`. Relative paths in the file start at its directory.
    pub(crate) fn new(name: &str, env: &'a Env, files: &'a dyn FileSource) -> Self {
        Self { name: name.into(), env, files, problems: Vec::new(), warnings: Vec::new() }
    }

    /// The value of the environment variable that `at` names.
    pub(crate) fn variable(&mut self, at: &Spanned<String>) -> Option<&'a str> {
        let value = self.env.get(&at.value);
        if value.is_none() {
            let what = format!("the environment variable {} is not set", at.value);
            self.problem(at.place, &at.path, what, "set it before larder starts");
        }
        value
    }

    /// Records a problem.
    pub(crate) fn problem(
        &mut self,
        place: SourceLocation,
        path: &str,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let (path, what, fix) = (path.to_owned(), what.into(), fix.into());
        self.problems.push(Problem { place, path, what, fix });
    }

    /// Records a warning.
    pub(crate) fn warn<T>(&mut self, at: &Spanned<T>, kind: WarningKind, text: impl Into<String>) {
        let (name, path) = (Arc::clone(&self.name), at.path.clone());
        self.warnings.push(Warning { name, place: at.place, path, kind, text: text.into() });
    }

    /// A scalar, parsed by `parse`.
    pub(crate) fn scalar<T>(
        &mut self,
        node: &Node,
        path: &str,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Option<Spanned<T>> {
        let text = self.text(node, path)?;
        match parse(&text.value) {
            Ok(value) => Some(Spanned { value, place: node.place, path: path.to_owned() }),
            Err(error) => {
                let (what, fix) = error_text(&text, error);
                self.problem(node.place, path, what, fix);
                None
            }
        }
    }

    /// A list of scalars; a single scalar is a list of one. Invalid members are reported and left out.
    pub(crate) fn scalars<T>(
        &mut self,
        node: &Node,
        path: &str,
        parse: impl Fn(&str) -> Result<T, ValueError>,
    ) -> Vec<Spanned<T>> {
        let Value::List(items) = &node.value else {
            return self.scalar(node, path, parse).into_iter().collect();
        };
        let read = |(index, item)| self.scalar(item, &format!("{path}[{index}]"), &parse);
        items.iter().enumerate().filter_map(read).collect()
    }

    /// The name that is the key of `entry`, parsed by `parse`; problems are reported at `path`.
    pub(crate) fn name<T>(
        &mut self,
        entry: &Entry,
        path: &str,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Option<T> {
        let report = |error: ValueError| {
            self.problem(entry.place, path, format!("`{}` {}", entry.key, error.what), error.fix);
        };
        parse(&entry.key).map_err(report).ok()
    }

    /// The members of a list whose order matters; a missing value is an empty list.
    pub(crate) fn list<'t>(&mut self, node: &'t Node, path: &str, what: &str, fix: &str) -> &'t [Node] {
        match &node.value {
            Value::List(nodes) => nodes,
            Value::Null => &[],
            Value::Scalar(..) | Value::Map(_) => {
                self.problem(node.place, path, what, fix);
                &[]
            }
        }
    }

    /// A map; a missing value (all of it commented out) is an empty map.
    pub(crate) fn section<'t>(&mut self, node: &'t Node, path: &str) -> Option<Section<'t>> {
        let entries: &[Entry] = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            Value::Scalar(..) | Value::List(_) => {
                let what = "is not a map, but keys are expected here";
                self.problem(node.place, path, what, "write `key: value` lines, indented below it");
                return None;
            }
        };
        Some(Section { path: path.to_owned(), place: node.place, entries, known: Vec::new() })
    }

    /// The contents of the file that `at` names, at most 1 MiB.
    pub(crate) fn file(&mut self, at: &Spanned<PathBuf>) -> Option<Contents> {
        match self.files.read(&at.value, 1 << 20) {
            Ok(contents) => Some(contents),
            Err(error) => {
                let what = format!("the file cannot be read: {}", error.kind());
                let fix = "a relative path starts at the directory of this configuration";
                self.problem(at.place, &at.path, what, fix);
                None
            }
        }
    }

    /// The same for a file with a secret, `noun`, which other users of this machine must not access.
    pub(crate) fn private_file(&mut self, at: &Spanned<PathBuf>, noun: &str) -> Option<Contents> {
        let contents = self.file(at)?;
        if contents.open_to_all {
            let what = format!("all users of this machine can read or change the file with {noun}");
            let fix = "remove the permissions of other users: `chmod o= FILE`";
            self.problem(at.place, &at.path, what, fix);
            return None;
        }
        Some(contents)
    }

    /// A path, relative to the directory of the configuration.
    pub(crate) fn path(&mut self, node: &Node, path: &str) -> Option<Spanned<PathBuf>> {
        let base = self.directory();
        self.scalar(node, path, |text| path_below(&base, text))
    }

    /// A list of paths, or a single one.
    pub(crate) fn paths(&mut self, node: &Node, path: &str) -> Vec<Spanned<PathBuf>> {
        let base = self.directory();
        self.scalars(node, path, |text| path_below(&base, text))
    }

    /// The directory of the configuration, where relative paths start.
    pub(crate) fn directory(&self) -> PathBuf {
        Path::new(&*self.name).parent().unwrap_or(Path::new("")).to_owned()
    }

    fn text<'t>(&mut self, node: &'t Node, path: &str) -> Option<Interpolated<'t>> {
        let (what, fix) = match &node.value {
            Value::Scalar(written, _) => match env::interpolate(written, self.env) {
                Ok(value) => return Some(Interpolated { written, value }),
                Err(error) => (error.to_string(), error.fix()),
            },
            Value::Null => {
                ("has no value".to_owned(), "write one, or remove the key for the default".to_owned())
            }
            Value::List(_) => ("is a list where one value is expected".to_owned(), one_value()),
            Value::Map(_) => ("is a map where one value is expected".to_owned(), one_value()),
        };
        self.problem(node.place, path, what, fix);
        None
    }
}

fn path_below(base: &Path, text: &str) -> Result<PathBuf, ValueError> {
    if text.is_empty() || text.contains('\0') {
        return Err(ValueError::is_not("the path of a file"));
    }
    Ok(base.join(text))
}

fn one_value() -> String {
    "write the value alone".to_owned()
}

/// The texts of an error. A value from the environment may be a secret: then the texts do not depend on it.
fn error_text(text: &Interpolated<'_>, error: ValueError) -> (String, String) {
    if text.written == text.value {
        return (format!("`{}` {}", text.written, error.what), error.fix);
    }
    let what = format!("`{}`: its value is not {}", text.written, error.wanted);
    (what, "the value comes from the environment and is not shown".to_owned())
}

/// A map that is read key by key. Keys that are never read are unknown.
pub(crate) struct Section<'t> {
    pub(crate) path: String,
    pub(crate) place: SourceLocation,
    entries: &'t [Entry],
    known: Vec<&'static str>,
}

impl<'t> Section<'t> {
    /// The value of a key, if it is present.
    pub(crate) fn get(&mut self, key: &'static str) -> Option<&'t Node> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// Whether the key is present.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// The full path of one of its keys.
    pub(crate) fn key_path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The location of a key, for problems with the key rather than with its value.
    pub(crate) fn key_place(&self, key: &str) -> SourceLocation {
        let entry = self.entries.iter().find(|entry| entry.key == key);
        entry.map_or(self.place, |entry| entry.place)
    }

    /// All entries, for maps whose keys are names.
    pub(crate) fn entries(&self) -> &'t [Entry] {
        self.entries
    }

    /// The scalar under `key`, parsed by `parse`.
    pub(crate) fn scalar<T>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Option<Spanned<T>> {
        let node = self.get(key)?;
        reader.scalar(node, &self.key_path(key), parse)
    }

    /// The same without its location, or `default`.
    pub(crate) fn scalar_or<T>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
        default: T,
    ) -> T {
        self.scalar(reader, key, parse).map_or(default, |at| at.value)
    }

    /// The list under `key`, or a single value; `None` if the key is absent.
    pub(crate) fn scalars<T>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, ValueError>,
    ) -> Option<Vec<Spanned<T>>> {
        let node = self.get(key)?;
        Some(reader.scalars(node, &self.key_path(key), parse))
    }

    /// The same without their locations; empty if the key is absent.
    pub(crate) fn values<T>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, ValueError>,
    ) -> Vec<T> {
        values(self.scalars(reader, key, parse).unwrap_or_default())
    }

    /// The scalar under the required `key`, parsed by `parse`; `fix` is for a section without the key.
    pub(crate) fn required<T>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
        fix: &str,
    ) -> Option<Spanned<T>> {
        if !self.has(key) {
            self.missing(reader, key, fix);
        }
        self.scalar(reader, key, parse)
    }

    /// The path of the file under `key`.
    pub(crate) fn file_path(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
    ) -> Option<Spanned<PathBuf>> {
        let node = self.get(key)?;
        reader.path(node, &self.key_path(key))
    }

    /// The section under `key`.
    pub(crate) fn section(&mut self, reader: &mut Reader<'_>, key: &'static str) -> Option<Section<'t>> {
        let node = self.get(key)?;
        reader.section(node, &self.key_path(key))
    }

    /// Reports that the required `key` is missing.
    pub(crate) fn missing(&self, reader: &mut Reader<'_>, key: &str, fix: &str) {
        reader.problem(self.place, &self.key_path(key), "is missing", fix);
    }

    /// Finishes the section: reports every key that was never read.
    pub(crate) fn finish(&self, reader: &mut Reader<'_>) {
        for entry in self.entries.iter().filter(|entry| !self.known.contains(&entry.key.as_str())) {
            let fix = self.fix_for(&entry.key);
            let what = "is not a known key";
            reader.problem(entry.place, &self.key_path(&entry.key), what, fix);
        }
    }

    /// The way to mend the unknown `key`.
    fn fix_for(&self, key: &str) -> String {
        if let Some(new) = new_name(key, &self.known) {
            return format!("its name is now `{new}`");
        }
        nearest(key, &self.known).map_or_else(
            || format!("known here: {}", self.known.join(", ")),
            |near| format!("did you mean `{near}`?"),
        )
    }
}

/// The values without their locations.
pub(crate) fn values<T>(all: Vec<Spanned<T>>) -> Vec<T> {
    all.into_iter().map(|at| at.value).collect()
}
