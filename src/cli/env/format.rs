//! The output formats of `larder env`.
//!
//! Owns: the quoting of each format. Never touches: the list of variables.

/// The syntax in which variables are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// sh, bash, zsh: eval "$(larder env)"
    Sh,
    /// fish: larder env --format fish | source
    Fish,
    /// A .env file.
    Dotenv,
    /// A file for docker run --env-file.
    Docker,
    /// The `env` list of a container in YAML.
    K8s,
}

impl Format {
    /// Whether a shell reads it, which has an environment already.
    pub(super) fn is_for_shells(self) -> bool {
        match self {
            Self::Sh | Self::Fish => true,
            Self::Dotenv | Self::Docker | Self::K8s => false,
        }
    }

    /// The line of one variable.
    pub(super) fn line(self, name: &str, value: &str) -> String {
        match self {
            // Between single quotes, every character except the single quote is literal.
            Self::Sh => format!("export {name}='{}'", value.replace('\'', "'\\''")),
            // In fish, a backslash escapes these two characters between single quotes.
            Self::Fish => {
                let value = value.replace('\\', "\\\\").replace('\'', "\\'");
                format!("set -gx {name} '{value}'")
            }
            Self::Dotenv => format!("{name}={}", dotenv(value)),
            // No quotes: they would be part of the value. Line ends are not supported.
            Self::Docker => format!("{name}={}", value.replace('\n', " ")),
            // A JSON string is a valid YAML string.
            Self::K8s => format!("- name: {name}\n  value: {}", serde_json::Value::from(value)),
        }
    }
}

/// Quotes with single quotes, which all parsers read alike. A value with a single quote or a line end is
/// escaped between double quotes.
fn dotenv(value: &str) -> String {
    if !value.contains(['\'', '\n']) {
        return format!("'{value}'");
    }
    let mut text = String::from("\"");
    for character in value.chars() {
        match character {
            '"' | '\\' | '$' | '`' => text.extend(['\\', character]),
            '\n' => text.push_str("\\n"),
            character => text.push(character),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const UNUSUAL: [&str; 7] = [
        "",
        "plain",
        "two words",
        "it's \"quoted\"",
        "$HOME `id` \\ \\n * # ; & |",
        "--require \"/with a space/shim.cjs\" -D'x'",
        "two\nlines",
    ];

    #[test]
    fn a_shell_reads_back_the_original_value() {
        for value in UNUSUAL {
            let line = Format::Sh.line("LARDER_TEST", value);
            let script = format!("{line}\nprintf %s \"$LARDER_TEST\"");
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), value, "{line}");
            assert!(output.stderr.is_empty(), "{line}");
        }
    }

    #[test]
    fn fish_values_are_escaped_by_the_rules_of_fish() {
        let line = Format::Fish.line("N", "it's \\ $HOME\nb");
        assert_eq!(line, "set -gx N 'it\\'s \\\\ $HOME\nb'");
    }

    #[test]
    fn yaml_values_are_json() {
        for value in UNUSUAL {
            let line = Format::K8s.line("N", value);
            let json = line.strip_prefix("- name: N\n  value: ").unwrap();
            assert_eq!(serde_json::from_str::<String>(json).unwrap(), value);
        }
    }

    #[test]
    fn docker_and_dotenv_files_have_one_variable_a_line() {
        assert_eq!(Format::Docker.line("N", "a 'b' \"c\""), "N=a 'b' \"c\"");
        assert_eq!(Format::Dotenv.line("N", "a \"b\" $c"), "N='a \"b\" $c'");
        assert_eq!(Format::Dotenv.line("N", "it's $5 \"x\"\nb"), "N=\"it's \\$5 \\\"x\\\"\\nb\"");
    }
}
