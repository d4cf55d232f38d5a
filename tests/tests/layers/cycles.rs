//! The files of a crate, and which of them need which. No cycle of files crosses a directory: what
//! is in a directory can be read, tested and moved by itself.
//!
//! A path that leads through a re-export counts as one to the file that defines what it names.
//! Tests don't count, and neither do paths inside macros. A file `x.rs` belongs to the directory
//! `x/` where there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, ItemFn, ItemImpl, ItemMod, ItemUse, UseTree, Visibility};

/// A module's path from the root of its crate. Each module here is a file.
type Module = Vec<String>;

/// What a file says.
#[derive(Default)]
struct Source {
    /// What each imported or re-exported name stands for, as a path from the root of the crate.
    names: BTreeMap<String, Vec<String>>,
    /// Every path in the file, imports included, as written in the file itself.
    paths: Vec<Vec<String>>,
    /// How many modules in the file are around what is visited.
    inside: usize,
}

struct Crate {
    name: String,
    sources: BTreeMap<Module, Source>,
}

impl Crate {
    fn read(root: &Path) -> Self {
        let src = root.join("src");
        let mut files = Vec::new();
        list(&src, &mut files);
        let module_of = |file: &Path| {
            let path = file.strip_prefix(&src).expect("a file of the crate").with_extension("");
            let parts = path.iter().map(|part| part.to_string_lossy().into_owned());
            let mut module: Module = parts.collect();
            module.pop_if(|last| *last == "mod");
            if module == ["lib"] || module == ["main"] {
                module.clear();
            }
            module
        };
        let files: BTreeMap<Module, PathBuf> = files
            .into_iter()
            .map(|file| (module_of(&file), file))
            .filter(|(module, _)| !module.iter().any(|part| part == "tests" || part == "bin"))
            .collect();
        let known: BTreeSet<Module> = files.keys().cloned().collect();
        let sources = files.into_iter().map(|(module, file)| {
            let text = fs::read_to_string(&file).expect("a source can be read");
            let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let mut source = Source::default();
            source.visit_file(&parsed);
            source.names = (source.names.iter())
                .filter_map(|(name, path)| Some((name.clone(), absolute(&module, path, &known, &BTreeMap::new())?)))
                .collect();
            (module, source)
        });
        let sources = sources.collect();
        let name = root
            .file_name()
            .expect("a crate's folder")
            .to_string_lossy()
            .into_owned();
        Self { name, sources }
    }

    /// The file that defines what a path from the root of the crate names.
    fn definition(&self, path: &[String], steps: usize) -> Module {
        let is_module = |length: &usize| self.sources.contains_key(&path[..*length]);
        let length = (0..=path.len()).take_while(is_module).last().unwrap_or(0);
        let (module, rest) = path.split_at(length);
        let stands_for = rest.first().and_then(|name| self.sources.get(module)?.names.get(name));
        match stands_for {
            // A name can be imported under its own name from below itself: that ends here.
            Some(target) if steps > 0 => {
                let path: Vec<String> = target.iter().chain(&rest[1..]).cloned().collect();
                self.definition(&path, steps - 1)
            }
            _ => module.to_vec(),
        }
    }

    /// The files that each file needs. The root is left out: it re-exports, and no file needs it.
    fn needs(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let known: BTreeSet<Module> = self.sources.keys().cloned().collect();
        let of = |module: &Module, source: &Source| {
            let paths = source.paths.iter();
            let inside = paths.filter_map(|path| absolute(module, path, &known, &source.names));
            inside
                .map(|path| self.definition(&path, 8))
                .filter(|needed| needed != module && !needed.is_empty())
                .collect()
        };
        let files = self.sources.iter().filter(|(module, _)| !module.is_empty());
        files
            .map(|(module, source)| (module.clone(), of(module, source)))
            .collect()
    }

    fn directory<'a>(&self, module: &'a [String]) -> &'a [String] {
        let has_children = self
            .sources
            .keys()
            .any(|other| other.len() > module.len() && other.starts_with(module));
        match has_children {
            true => module,
            false => &module[..module.len() - 1],
        }
    }

    /// Every cycle of files that are not all in one directory, in words.
    fn crossing_cycles(&self) -> Vec<String> {
        let needs = self.needs();
        let reached: BTreeMap<&Module, BTreeSet<&Module>> =
            needs.keys().map(|module| (module, reached(module, &needs))).collect();
        let mut found = BTreeSet::new();
        for module in needs.keys() {
            let round = |other: &&&Module| reached[*other].contains(module);
            let cycle: BTreeSet<&Module> = reached[module].iter().filter(round).copied().collect();
            let directories: BTreeSet<_> = cycle.iter().map(|module| self.directory(module)).collect();
            if directories.len() > 1 {
                found.insert(cycle);
            }
        }
        let name = |module: &&Module| module.join("/");
        let words = |cycle: &BTreeSet<&Module>| {
            let edges = cycle.iter().map(|module| {
                let to = needs[*module].iter().filter(|to| cycle.contains(to));
                let to: Vec<String> = to.map(|to| name(&to)).collect();
                format!("\n  {} needs {}", name(module), to.join(", "))
            });
            format!("{}: {} files:{}", self.name, cycle.len(), edges.collect::<String>())
        };
        found.iter().map(words).collect()
    }
}

/// Every file that a file needs, directly or not.
fn reached<'a>(from: &Module, needs: &'a BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&Module> = needs[from].iter().collect();
    while let Some(module) = next.pop() {
        if reached.insert(module) {
            next.extend(needs.get(module).into_iter().flatten());
        }
    }
    reached
}

/// A path from the root of the crate; `None` for one that leads out of the crate, or to nothing but
/// the file itself.
fn absolute(
    module: &[String],
    path: &[String],
    known: &BTreeSet<Module>,
    names: &BTreeMap<String, Vec<String>>,
) -> Option<Vec<String>> {
    let (first, rest) = path.split_first()?;
    let below = |base: &[String], rest: &[String]| Some([base, rest].concat());
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        // What an inner module calls `super::super` is `self::super` in the file.
        "self" if rest.first().is_some_and(|part| part == "super") => absolute(module, rest, known, names),
        "self" => below(module, rest),
        "super" => {
            let ups = path.iter().take_while(|part| *part == "super").count();
            below(&module[..module.len().checked_sub(ups)?], &path[ups..])
        }
        name if known.contains(&[module, &[name.to_owned()]].concat()) => below(module, path),
        name => below(names.get(name)?, rest),
    }
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a crate has sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            list(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    let is_test = |attribute: &Attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|condition| condition.is_ident("test"))
    };
    attributes.iter().any(is_test)
}

impl Visit<'_> for Source {
    fn visit_item_mod(&mut self, module: &ItemMod) {
        if !is_test(&module.attrs) {
            self.inside += 1;
            visit::visit_item_mod(self, module);
            self.inside -= 1;
        }
    }

    fn visit_item_fn(&mut self, function: &ItemFn) {
        if !is_test(&function.attrs) {
            visit::visit_item_fn(self, function);
        }
    }

    fn visit_item_impl(&mut self, block: &ItemImpl) {
        if !is_test(&block.attrs) {
            visit::visit_item_impl(self, block);
        }
    }

    fn visit_item_use(&mut self, item: &ItemUse) {
        if !is_test(&item.attrs) {
            let before = self.paths.len();
            self.import(&mut Vec::new(), &item.tree);
            // A file does not need what it only re-exports; what it uses by that name is seen where
            // it does.
            if !matches!(item.vis, Visibility::Inherited) {
                self.paths.truncate(before);
            }
        }
    }

    /// `pub(super)` needs nothing.
    fn visit_visibility(&mut self, _: &Visibility) {}

    fn visit_path(&mut self, path: &syn::Path) {
        let parts = path.segments.iter().map(|part| part.ident.to_string());
        let path_in_file = self.in_file(parts.collect());
        self.paths.push(path_in_file);
        visit::visit_path(self, path);
    }
}

impl Source {
    fn import(&mut self, prefix: &mut Vec<String>, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.import(prefix, &path.tree);
                prefix.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(prefix, tree);
                }
            }
            UseTree::Name(name) => self.bind(prefix, &name.ident.to_string(), &name.ident.to_string()),
            UseTree::Rename(rename) => self.bind(prefix, &rename.ident.to_string(), &rename.rename.to_string()),
            UseTree::Glob(_) => self.paths.push(self.in_file(prefix.clone())),
        }
    }

    fn bind(&mut self, prefix: &[String], name: &str, alias: &str) {
        let mut path = prefix.to_vec();
        let alias = match (name, path.last()) {
            ("self", Some(last)) => last.clone(),
            _ => {
                path.push(name.to_owned());
                alias.to_owned()
            }
        };
        let path = self.in_file(path);
        self.paths.push(path.clone());
        self.names.insert(alias, path);
    }

    /// A path as it would be written outside of the modules in the file.
    fn in_file(&self, mut path: Vec<String>) -> Vec<String> {
        let ups = path.iter().take_while(|part| *part == "super").count().min(self.inside);
        if ups > 0 {
            path.splice(..ups, ["self".to_owned()]);
        }
        path
    }
}

#[test]
fn no_cycle_of_files_crosses_a_directory() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut found = Vec::new();
    for entry in fs::read_dir(crates).expect("the crates") {
        let root = entry.expect("an entry").path();
        if root.join("Cargo.toml").is_file() {
            found.extend(Crate::read(&root).crossing_cycles());
        }
    }
    assert!(
        found.is_empty(),
        "cycles of files that cross a directory:\n{}",
        found.join("\n")
    );
}

/// A crate of the given files.
fn crate_of(files: &[(&str, &str)]) -> Crate {
    let folder = tempfile::tempdir().expect("a folder");
    for (file, text) in files {
        let path = folder.path().join("src").join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder can be made");
        fs::write(path, text).expect("a file can be written");
    }
    Crate::read(folder.path())
}

#[test]
fn a_cycle_is_found_through_re_exports_and_paths_in_code() {
    let cycle = crate_of(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "mod deep; pub use deep::Deep;"),
        ("a/deep.rs", "pub struct Deep(crate::b::leaf::Leaf);"),
        ("b.rs", "pub mod leaf;"),
        ("b/leaf.rs", "use crate::a::Deep as D; pub struct Leaf(Box<D>);"),
    ]);
    let found = cycle.crossing_cycles();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("a/deep needs b/leaf") && found[0].contains("b/leaf needs a/deep"),
        "{found:?}"
    );
}

#[test]
fn what_stays_in_a_directory_or_in_tests_is_no_crossing_cycle() {
    let fine = crate_of(&[
        ("lib.rs", "mod a; mod b; pub use a::A;"),
        ("a.rs", "mod near; pub struct A(near::Near);"),
        ("a/near.rs", "use super::A; pub struct Near(Box<A>, crate::b::B);"),
        ("b.rs", "pub struct B; #[cfg(test)] mod tests { use crate::a::A; }"),
    ]);
    assert_eq!(fine.crossing_cycles(), Vec::<String>::new());
}
