//! Reads what Python prints when it ends with an exception: the line that names it, and the
//! package that fixes it.

/// The exception that ended a Python program, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traceback {
    /// The last line of the traceback, for example `ModuleNotFoundError: No module named 'yaml'`.
    pub line: String,
    /// Where a module is missing: its name, and the package to install.
    pub missing: Option<Missing>,
}

/// A module that could not be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The module, as it is imported.
    pub module: String,
    /// The package that has it on PyPI, as far as is known; else the module's own top level.
    pub package: String,
}

impl Missing {
    /// The missing module `module`.
    pub fn new(module: impl Into<String>) -> Self {
        let module = module.into();
        let package = package_of(&module).to_owned();
        Self { module, package }
    }

    /// What to do, for an interpreter that is started as `python`.
    pub fn suggestion(&self, installer: Installer, python: &str) -> String {
        format!(
            "install it where this interpreter finds it: {}",
            installer.command(python, &self.package)
        )
    }
}

/// What installs packages for an interpreter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installer {
    /// Its own pip.
    Pip,
    /// uv, for an environment without pip, which is what uv makes.
    Uv,
}

impl Installer {
    /// The command that installs `package`, as it is typed into a shell.
    pub fn command(self, python: &str, package: &str) -> String {
        match self {
            Self::Pip => format!("{python} -m pip install {package}"),
            Self::Uv => format!("uv pip install --python {python} {package}"),
        }
    }
}

/// Finds the last traceback in the last lines of a program's stderr. `None`: there is none.
pub fn read(stderr: &[String]) -> Option<Traceback> {
    let start = stderr
        .iter()
        .rposition(|line| line.starts_with("Traceback (most recent call last)"));
    let line = match start {
        // Frames are indented; the first line that is not names the exception.
        Some(start) => stderr[start + 1..]
            .iter()
            .find(|line| !line.is_empty() && !line.starts_with([' ', '\t']))?,
        // The start was pushed out of the last lines, or there is none: a syntax error has no
        // frames.
        None => stderr.iter().rev().find(|line| names_exception(line))?,
    };
    Some(Traceback {
        line: line.clone(),
        missing: missing_module(line).map(Missing::new),
    })
}

/// Whether a line is `SomeError: message`, with the error's name dotted or not.
fn names_exception(line: &str) -> bool {
    let name = line.split(": ").next().unwrap_or(line);
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    (name.ends_with("Error") || name.ends_with("Exception")) && name.chars().all(is_name)
}

/// `ModuleNotFoundError: No module named 'a.b'` → `a.b`.
fn missing_module(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("ModuleNotFoundError: No module named ")?;
    let quoted = rest.strip_prefix('\'').unwrap_or(rest);
    let end = quoted.find(['\'', ';']).unwrap_or(quoted.len());
    Some(quoted[..end].trim()).filter(|module| !module.is_empty())
}

/// Modules whose package has another name.
const PACKAGES: [(&str, &str); 21] = [
    ("bs4", "beautifulsoup4"),
    ("Crypto", "pycryptodome"),
    ("cv2", "opencv-python"),
    ("dateutil", "python-dateutil"),
    ("dotenv", "python-dotenv"),
    ("fitz", "pymupdf"),
    ("google.protobuf", "protobuf"),
    ("grpc", "grpcio"),
    ("grpc_health", "grpcio-health-checking"),
    ("grpc_tools", "grpcio-tools"),
    ("jwt", "pyjwt"),
    ("MySQLdb", "mysqlclient"),
    ("ostler_worker", "ostler-worker"),
    ("PIL", "pillow"),
    ("psycopg2", "psycopg2-binary"),
    ("pynvml", "nvidia-ml-py"),
    ("sentence_transformers", "sentence-transformers"),
    ("serial", "pyserial"),
    ("skimage", "scikit-image"),
    ("sklearn", "scikit-learn"),
    ("yaml", "pyyaml"),
];

fn package_of(module: &str) -> &str {
    let within = |name: &str| module == name || module.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    PACKAGES
        .iter()
        .find(|(name, _)| within(name))
        .map_or_else(|| module.split('.').next().unwrap_or(module), |(_, package)| package)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_missing_module_names_the_package_that_has_it() {
        let stderr = "loading\nTraceback (most recent call last):\n  File \"worker.py\", line 1, in <module>\n    import yaml\n\
                      ModuleNotFoundError: No module named 'yaml'\nand more output";
        let found = read(&lines(stderr)).expect("there is a traceback");
        assert_eq!(found.line, "ModuleNotFoundError: No module named 'yaml'");
        let missing = found.missing.expect("a module is missing");
        assert_eq!(
            missing.suggestion(Installer::Pip, "python3"),
            "install it where this interpreter finds it: python3 -m pip install pyyaml"
        );
        assert_eq!(
            missing.suggestion(Installer::Uv, "env/bin/python"),
            "install it where this interpreter finds it: uv pip install --python env/bin/python pyyaml"
        );
    }

    #[test]
    fn the_last_traceback_counts() {
        let chained = "Traceback (most recent call last):\n  a\nKeyError: 'x'\n\nDuring handling of the above exception, another \
                       exception occurred:\n\nTraceback (most recent call last):\n  b\nmy.module.OwnError: no";
        let found = read(&lines(chained)).expect("there is a traceback");
        assert_eq!((found.line.as_str(), found.missing), ("my.module.OwnError: no", None));
    }

    #[test]
    fn a_traceback_whose_start_is_gone_and_a_syntax_error_are_found() {
        assert_eq!(
            read(&lines("    frame()\nValueError: no")).expect("found").line,
            "ValueError: no"
        );
        let syntax = "  File \"worker.py\", line 1\n    def\n       ^\nSyntaxError: invalid syntax";
        assert_eq!(read(&lines(syntax)).expect("found").line, "SyntaxError: invalid syntax");
    }

    #[test]
    fn other_output_is_no_traceback() {
        for text in [
            "",
            "listening on 7001",
            "[ERROR] Error: no",
            "Traceback (most recent call last):\n  cut off",
        ] {
            assert_eq!(read(&lines(text)), None, "{text}");
        }
    }

    #[test]
    fn packages_of_modules() {
        for (module, package) in [
            ("PIL.Image", "pillow"),
            ("google.protobuf.message", "protobuf"),
            ("google.cloud", "google"),
            ("numpy.linalg", "numpy"),
            ("yamlish", "yamlish"),
        ] {
            assert_eq!(Missing::new(module).package, package);
        }
    }
}
