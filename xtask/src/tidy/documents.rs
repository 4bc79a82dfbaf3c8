//! That the documents exist, name what exists, and link to what exists.

use super::{File, Finding, file};
use crate::{
    crates::Member,
    lexer::{code, product_part},
};
use std::path::{Component, Path, PathBuf};

const ARCHITECTURE: &str = "ARCHITECTURE.md";
const README: &str = "README.md";
const FORMATS: [&str; 2] = ["docs/format.md", "docs/protocol.md"];

const REQUIRED: [&str; 13] = [
    ARCHITECTURE,
    README,
    FORMATS[0],
    FORMATS[1],
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "docs/dependencies.md",
    "deny.toml",
    "justfile",
    "rustfmt.toml",
    "clippy.toml",
    ".ci/run",
];

/// What a newcomer types, as README.md must say it and CI must run it.
const COMMANDS: [&str; 2] = ["cargo run --release -- demo", "cargo test --release --workspace"];

pub(super) fn check(members: &[Member], files: &[File], root: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in REQUIRED {
        if file(files, path).is_none_or(|file| file.text.trim().is_empty()) {
            findings.push(Finding::new(path, "it is missing or empty", "write it"));
        }
    }
    let text = |path| file(files, path).map_or("", |file| file.text.as_str());
    findings.extend(named(members, text(ARCHITECTURE)));
    for command in COMMANDS.iter().filter(|command| !text(README).contains(*command)) {
        findings.push(Finding::new(
            README,
            format!("it lacks the command `{command}`"),
            "say how to try and to test",
        ));
    }
    let formats = FORMATS.map(text).concat();
    findings.extend(
        files
            .iter()
            .filter(|file| file.is_product())
            .flat_map(|file| described(file, &formats)),
    );
    let pages = files.iter().filter(|file| file.path.ends_with(".md"));
    findings.extend(pages.flat_map(|page| linked(page, |target| root.join(target).exists())));
    for member in members {
        let manifest = format!("{}/Cargo.toml", member.folder);
        if !file(files, &manifest).is_some_and(|file| file.text.contains("[lints]\nworkspace = true")) {
            let remedy = "add `[lints]` with `workspace = true`";
            findings.push(Finding::new(manifest, "it does not take the workspace's lints", remedy));
        }
    }
    findings
}

/// Every crate is on the map, and the map shows no other.
fn named(members: &[Member], map: &str) -> Vec<Finding> {
    let spans: Vec<&str> = map.split('`').skip(1).step_by(2).collect();
    let is_crate = |span: &&str| {
        let rest = span.strip_prefix("potluck-");
        rest.is_some_and(|rest| !rest.is_empty() && rest.chars().all(|letter| letter.is_ascii_lowercase()))
    };
    let mut findings = Vec::new();
    for member in members.iter().filter(|member| !spans.contains(&member.name.as_str())) {
        let what = format!("the crate `{}` is not named", member.name);
        findings.push(Finding::new(
            ARCHITECTURE,
            what,
            "add its paragraph, with what it must not know",
        ));
    }
    for span in spans.iter().filter(|span| is_crate(span)) {
        if !members.iter().any(|member| member.name == **span) {
            findings.push(Finding::new(
                ARCHITECTURE,
                format!("there is no crate `{span}`"),
                "name what exists",
            ));
        }
    }
    findings
}

/// Every constant that goes to disk or over the wire under our name stands in a format document.
fn described(file: &File, formats: &str) -> Vec<Finding> {
    let literals = code(product_part(&file.text)).literals;
    let ours = literals.iter().filter(|literal| is_format_name(&literal.text));
    let missing = ours.filter(|literal| !formats.contains(literal.text.trim()));
    missing
        .map(|literal| {
            let place = format!("{}:{}", file.path, literal.line);
            let what = format!(
                "`{}` stands in neither {} nor {}",
                literal.text.trim(),
                FORMATS[0],
                FORMATS[1]
            );
            Finding::new(place, what, "describe what it names there")
        })
        .collect()
}

/// The project's name, a purpose, and a version: `potluck/log-entry/1`, `/potluck/join/1`, `potluck directory 1`.
fn is_format_name(literal: &str) -> bool {
    let text = literal.trim().strip_prefix('/').unwrap_or(literal.trim());
    let rest = text.strip_prefix("potluck");
    rest.is_some_and(|rest| rest.starts_with(['/', ' ', '-']) && rest.ends_with(|last: char| last.is_ascii_digit()))
}

/// Every link to a file leads to one.
fn linked(page: &File, exists: impl Fn(&Path) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut is_example = false;
    for (at, line) in page.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_example = !is_example;
        }
        if is_example {
            continue;
        }
        let targets = line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', '#']).next());
        for target in targets.filter(|target| !target.is_empty() && !target.contains("://")) {
            let folder = Path::new(&page.path).parent().unwrap_or(Path::new(""));
            if !exists(&plain(&folder.join(target))) {
                let place = format!("{}:{}", page.path, at + 1);
                findings.push(Finding::new(
                    place,
                    format!("the link leads nowhere: {target}"),
                    "link to a file that exists",
                ));
            }
        }
    }
    findings
}

/// Without `..` and `.`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn what(findings: Vec<Finding>) -> Vec<String> {
        findings.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn the_map_shows_what_exists() {
        let member = |name: &str| Member {
            name: name.to_owned(),
            folder: String::new(),
            own: BTreeSet::new(),
            foreign: BTreeSet::new(),
        };
        let members = [member("potluck"), member("potluck-types")];
        assert!(named(&members, "`potluck` stands on `potluck-types`, not `potluck-<x>`").is_empty());
        assert_eq!(
            what(named(&members, "`potluck` stands on `potluck-ledger`")),
            [
                "the crate `potluck-types` is not named",
                "there is no crate `potluck-ledger`"
            ]
        );
    }

    #[test]
    fn constants_of_formats_are_described() {
        let source = "a(\"potluck/vote/1\"); b(\"/potluck/x/2\"); c(b\"potluck seed 1\"); d(\"potluck/\"); e(\"potluck up\");\n\
                      // \"potluck/comment/1\"\n#[cfg(test)]\nmod tests { f(\"potluck/test/1\") }";
        let file = File {
            path: "crates/x/src/lib.rs".to_owned(),
            text: source.to_owned(),
        };
        assert_eq!(described(&file, "").len(), 3);
        assert!(described(&file, "potluck/vote/1, /potluck/x/2, potluck seed 1").is_empty());
    }

    #[test]
    fn links_lead_somewhere() {
        let text = "[a](../README.md) [b](https://example.org) [c](#d) [e](gone.md#f)\n```\n[g](h)\n```\n";
        let page = File {
            path: "docs/page.md".to_owned(),
            text: text.to_owned(),
        };
        let found = linked(&page, |target| target == Path::new("README.md"));
        assert_eq!(what(found), ["the link leads nowhere: gone.md"]);
    }
}
