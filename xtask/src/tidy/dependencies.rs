//! What others wrote: every direct dependency is written down with its reason, every licence in the tree is one that we take, and
//! nothing comes from elsewhere than crates.io.

use super::{File, Finding, file};
use crate::crates::{Crates, Foreign};
use std::collections::BTreeSet;

const LIST: &str = "docs/dependencies.md";
const POLICY: &str = "deny.toml";

pub(super) fn check(crates: &Crates, files: &[File]) -> Vec<Finding> {
    let text = |path| file(files, path).map_or("", |file| file.text.as_str());
    let mut findings = listed(crates, text("Cargo.toml"), text(LIST));
    let allowed = list_after(text(POLICY), "allow = [");
    findings.extend(
        crates
            .foreign
            .iter()
            .filter_map(|foreign| acceptable(foreign, &allowed)),
    );
    findings
}

/// Direct dependencies, the root manifest, and the table in the document say the same.
fn listed(crates: &Crates, manifest: &str, document: &str) -> Vec<Finding> {
    let used: BTreeSet<&str> = crates
        .members
        .iter()
        .flat_map(|member| &member.foreign)
        .map(String::as_str)
        .collect();
    let offered = shared_dependencies(manifest);
    let written: BTreeSet<&str> = document.lines().filter_map(first_cell).collect();
    let mut findings = Vec::new();
    for name in used.union(&offered).filter(|name| !written.contains(*name)) {
        let remedy = "add a line: what for, what else was weighed, its licence";
        findings.push(Finding::new(
            LIST,
            format!("the dependency `{name}` is missing"),
            remedy,
        ));
    }
    for name in written
        .iter()
        .filter(|name| !used.contains(*name) && !offered.contains(*name))
    {
        findings.push(Finding::new(
            LIST,
            format!("no crate depends on `{name}`"),
            "remove its line",
        ));
    }
    for name in offered.difference(&used) {
        findings.push(Finding::new(
            "Cargo.toml",
            format!("no crate depends on `{name}`"),
            "remove it, and its line in the list",
        ));
    }
    findings
}

/// The names in `[workspace.dependencies]` that are not ours.
fn shared_dependencies(manifest: &str) -> BTreeSet<&str> {
    let table = manifest.split("[workspace.dependencies]").nth(1).unwrap_or_default();
    let lines = table.lines().take_while(|line| !line.starts_with('['));
    let pairs = lines
        .filter_map(|line| line.split_once(" = "))
        .filter(|(_, value)| !value.contains("path = "));
    pairs.map(|(name, _)| name.trim()).collect()
}

/// The name in backticks that a table's row begins with.
fn first_cell(line: &str) -> Option<&str> {
    line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name)
}

/// The quoted strings of a TOML list.
fn list_after<'t>(text: &'t str, start: &str) -> Vec<&'t str> {
    let list = text
        .split(start)
        .nth(1)
        .and_then(|rest| rest.split(']').next())
        .unwrap_or_default();
    let lines = list.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.flat_map(|line| line.split('"').skip(1).step_by(2)).collect()
}

fn acceptable(foreign: &Foreign, allowed: &[&str]) -> Option<Finding> {
    if let Some(source) = &foreign.source {
        return Some(Finding::new(
            &foreign.name,
            format!("it comes from {source}"),
            "use a release on crates.io",
        ));
    }
    let licence = &foreign.licence;
    // Crates of before 2018 write a slash for "or".
    let spaced = licence.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    if either(&mut words, allowed) && words.next().is_none() {
        return None;
    }
    let remedy = format!("do without it, or weigh the licence and add it to {POLICY}");
    Some(Finding::new(
        &foreign.name,
        format!("its licence is `{licence}`"),
        remedy,
    ))
}

type Words<'w> = std::iter::Peekable<std::str::SplitWhitespace<'w>>;

/// `A OR B`, over `both`: <https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/>.
fn either(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    let mut accepted = both(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        accepted |= both(words, allowed);
    }
    accepted
}

/// `A AND B`, over single licences and what is in parentheses.
fn both(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    let mut accepted = single(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        accepted &= single(words, allowed);
    }
    accepted
}

fn single(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    match words.next() {
        Some("(") => {
            let accepted = either(words, allowed);
            accepted && words.next() == Some(")") || {
                words.by_ref().find(|word| *word == ")");
                false
            }
        }
        Some(licence) if words.next_if_eq(&"WITH").is_some() => {
            let exception = words.next().unwrap_or_default();
            allowed.contains(&format!("{licence} WITH {exception}").as_str())
        }
        Some(licence) => allowed.contains(&licence),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crates::Member;

    #[track_caller]
    fn check_licence(licence: &str, accepted: bool) {
        let foreign = Foreign {
            name: "x 1.0.0".to_owned(),
            licence: licence.to_owned(),
            source: None,
        };
        let allowed = ["MIT", "Apache-2.0", "ISC", "Apache-2.0 WITH LLVM-exception"];
        assert_eq!(acceptable(&foreign, &allowed).is_none(), accepted, "{licence}");
    }

    #[test]
    fn licences_are_read_as_expressions() {
        check_licence("MIT", true);
        check_licence("GPL-3.0", false);
        check_licence("GPL-3.0 OR MIT", true);
        check_licence("Apache-2.0/GPL-2.0", true);
        check_licence("GPL-3.0 AND MIT", false);
        check_licence("(MIT OR GPL-3.0) AND ISC", true);
        check_licence("(MIT OR GPL-3.0) AND GPL-3.0", false);
        check_licence("(GPL-2.0 OR GPL-3.0) OR MIT", true);
        check_licence("Apache-2.0 WITH LLVM-exception", true);
        check_licence("Apache-2.0 WITH other-exception", false);
        check_licence("MIT AND", false);
        check_licence("", false);
    }

    #[test]
    fn a_fork_is_no_release() {
        let source = Some("https://example.org/x".to_owned());
        let foreign = Foreign {
            name: "x 1.0.0".to_owned(),
            licence: "MIT".to_owned(),
            source,
        };
        assert!(acceptable(&foreign, &["MIT"]).is_some());
    }

    #[test]
    fn the_list_and_the_manifests_say_the_same() {
        let member = Member {
            name: "potluck-a".to_owned(),
            folder: "crates/a".to_owned(),
            own: BTreeSet::new(),
            foreign: BTreeSet::from(["serde".to_owned(), "bytes".to_owned()]),
        };
        let crates = Crates {
            members: vec![member],
            foreign: BTreeSet::new(),
        };
        let manifest =
            "[workspace.dependencies]\nours = { path = \"a\" }\nserde = \"1\"\nclap = \"4\"\n[profile]\nx = 1\n";
        let document = "| `serde` | codec |\n| `clap` | arguments |\n| `left` | over |\n";
        let found: Vec<_> = listed(&crates, manifest, document)
            .into_iter()
            .map(|finding| (finding.place, finding.what))
            .collect();
        let say = |place: &str, what: &str| (place.to_owned(), what.to_owned());
        assert_eq!(
            found,
            [
                say(LIST, "the dependency `bytes` is missing"),
                say(LIST, "no crate depends on `left`"),
                say("Cargo.toml", "no crate depends on `clap`"),
            ]
        );
    }

    #[test]
    fn the_policy_is_read() {
        assert_eq!(
            list_after(
                "[licenses]\nallow = [\n  \"MIT\", # \"GPL\"\n  \"ISC\",\n]\n",
                "allow = ["
            ),
            ["MIT", "ISC"]
        );
    }
}
