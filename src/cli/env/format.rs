//! How variables are written for those who set them.
//!
//! Owns: the quoting of each format. Never touches: which variables there are.

/// For whom variables are written.
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
    /// Whether it is read by a shell that has variables already.
    pub(super) fn is_for_shells(self) -> bool {
        match self {
            Self::Sh | Self::Fish => true,
            Self::Dotenv | Self::Docker | Self::K8s => false,
        }
    }

    /// One variable.
    pub(super) fn line(self, name: &str, value: &str) -> String {
        match self {
            // Between single quotes everything stands for itself but a single quote.
            Self::Sh => format!("export {name}='{}'", value.replace('\'', "'\\''")),
            // In fish a backslash escapes these two there.
            Self::Fish => {
                let value = value.replace('\\', "\\\\").replace('\'', "\\'");
                format!("set -gx {name} '{value}'")
            }
            Self::Dotenv => format!("{name}={}", dotenv(value)),
            // Not quoted at all: a quote would be part of the value. It knows no line ends.
            Self::Docker => format!("{name}={}", value.replace('\n', " ")),
            // A string in JSON is one in YAML.
            Self::K8s => format!("- name: {name}\n  value: {}", serde_json::Value::from(value)),
        }
    }
}

/// All readers agree on single quotes; what cannot stand between them is escaped between double ones.
fn dotenv(value: &str) -> String {
    if !value.contains(['\'', '\n']) {
        return format!("'{value}'");
    }
    let mut text = String::from("\"");
    for sign in value.chars() {
        match sign {
            '"' | '\\' | '$' | '`' => text.extend(['\\', sign]),
            '\n' => text.push_str("\\n"),
            sign => text.push(sign),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const ODD: [&str; 7] = [
        "",
        "plain",
        "two words",
        "it's \"quoted\"",
        "$HOME `id` \\ \\n * # ; & |",
        "--require \"/with a space/shim.cjs\" -D'x'",
        "two\nlines",
    ];

    #[test]
    fn a_shell_reads_back_what_was_meant() {
        for value in ODD {
            let line = Format::Sh.line("LARDER_TEST", value);
            let script = format!("{line}\nprintf %s \"$LARDER_TEST\"");
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), value, "{line}");
            assert!(output.stderr.is_empty(), "{line}");
        }
    }

    #[test]
    fn fish_is_escaped_by_its_own_rules() {
        let line = Format::Fish.line("N", "it's \\ $HOME\nb");
        assert_eq!(line, "set -gx N 'it\\'s \\\\ $HOME\nb'");
    }

    #[test]
    fn yaml_values_are_json() {
        for value in ODD {
            let line = Format::K8s.line("N", value);
            let json = line.strip_prefix("- name: N\n  value: ").unwrap();
            assert_eq!(serde_json::from_str::<String>(json).unwrap(), value);
        }
    }

    #[test]
    fn files_of_variables_have_one_a_line() {
        assert_eq!(Format::Docker.line("N", "a 'b' \"c\""), "N=a 'b' \"c\"");
        assert_eq!(Format::Dotenv.line("N", "a \"b\" $c"), "N='a \"b\" $c'");
        assert_eq!(Format::Dotenv.line("N", "it's $5 \"x\"\nb"), "N=\"it's \\$5 \\\"x\\\"\\nb\"");
    }
}
