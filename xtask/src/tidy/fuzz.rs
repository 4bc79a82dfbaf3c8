//! Every fuzz target is in the manifest, has seeds to begin from, and stands in the document; and nothing else is there.

use super::{File, Finding, file};
use std::{collections::BTreeSet, fs, path::Path};

const MANIFEST: &str = "fuzz/Cargo.toml";
const DOCUMENT: &str = "docs/fuzzing.md";
const TARGETS: &str = "fuzz/targets/";
const SEEDS: &str = "fuzz/seeds";

pub(super) fn check(files: &[File], root: &Path) -> Vec<Finding> {
    let text = |path| file(files, path).map_or("", |file| file.text.as_str());
    let targets = files
        .iter()
        .filter_map(|file| file.path.strip_prefix(TARGETS)?.strip_suffix(".rs"))
        .collect();
    // Seeds are no text, so that they are not among the files.
    let folders = fs::read_dir(root.join(SEEDS)).into_iter().flatten().flatten();
    let seeded = folders
        .filter(|folder| fs::read_dir(folder.path()).is_ok_and(|mut seeds| seeds.next().is_some()))
        .map(|folder| folder.file_name().to_string_lossy().into_owned())
        .collect();
    compare(&targets, &seeded, text(MANIFEST), text(DOCUMENT))
}

fn compare(targets: &BTreeSet<&str>, seeded: &BTreeSet<String>, manifest: &str, document: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for target in targets {
        if !manifest.contains(&format!("path = \"targets/{target}.rs\"")) {
            let remedy = "add it as a `[[bin]]`";
            findings.push(Finding::new(
                MANIFEST,
                format!("the target `{target}` is missing"),
                remedy,
            ));
        }
        if !seeded.contains(*target) {
            let remedy = "write some in fuzz/seeds.rs, and run it";
            findings.push(Finding::new(
                SEEDS,
                format!("the target `{target}` has no seeds"),
                remedy,
            ));
        }
        if !document.contains(&format!("`{target}`")) {
            let remedy = "say what it tries";
            findings.push(Finding::new(
                DOCUMENT,
                format!("the target `{target}` is missing"),
                remedy,
            ));
        }
    }
    for folder in seeded.iter().filter(|folder| !targets.contains(folder.as_str())) {
        findings.push(Finding::new(
            SEEDS,
            format!("no target is called `{folder}`"),
            "remove its seeds",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_built_seeded_and_written_of() {
        let seeded = BTreeSet::from(["path".to_owned(), "gone".to_owned()]);
        let manifest = "path = \"targets/path.rs\"\n";
        let found = compare(
            &BTreeSet::from(["path", "new"]),
            &seeded,
            manifest,
            "| `path` | paths |",
        );
        let found: Vec<_> = found.into_iter().map(|finding| finding.what).collect();
        assert_eq!(
            found,
            [
                "the target `new` is missing",
                "the target `new` has no seeds",
                "the target `new` is missing",
                "no target is called `gone`"
            ]
        );
        assert!(
            compare(
                &BTreeSet::from(["path"]),
                &["path".to_owned()].into(),
                manifest,
                "`path`"
            )
            .is_empty()
        );
    }
}
