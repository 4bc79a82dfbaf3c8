//! The crates of the workspace and of the whole tree, as cargo tells them.

use serde_json::Value;
use std::{collections::BTreeSet, path::Path, process::Command};

/// A crate of this workspace.
pub(crate) struct Member {
    pub(crate) name: String,
    /// Its folder, from the workspace's.
    pub(crate) folder: String,
    /// What it depends on, for any purpose (to run, to build, to test): crates of this workspace, and others.
    pub(crate) own: BTreeSet<String>,
    pub(crate) foreign: BTreeSet<String>,
}

/// A crate of someone else, anywhere in the tree.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Foreign {
    /// Name and version.
    pub(crate) name: String,
    pub(crate) licence: String,
    /// Where it comes from; none for crates.io.
    pub(crate) source: Option<String>,
}

/// All of them.
pub(crate) struct Crates {
    pub(crate) members: Vec<Member>,
    pub(crate) foreign: BTreeSet<Foreign>,
}

/// Asks cargo. Crates of other platforms than this one are left out, so that nothing is downloaded which is not built.
pub(crate) fn load(root: &Path) -> Result<Crates, String> {
    let metadata = cargo(root, &["metadata", "--format-version", "1", "--no-deps"])?;
    let metadata = serde_json::from_str(&metadata).map_err(|error| format!("cargo metadata: {error}"))?;
    let members = read_members(&metadata).ok_or("cargo metadata has another form than expected")?;
    // Metadata also tells of crates that no feature asks for; the tree does not.
    let tree = cargo(
        root,
        &["tree", "--workspace", "--prefix", "none", "--format", TREE_FORMAT],
    )?;
    let foreign = read_tree(&tree, &members);
    Ok(Crates { members, foreign })
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<String, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo).args(arguments).current_dir(root).output();
    let output = output.map_err(|error| format!("cargo does not start: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!(
            "cargo {} fails: {}",
            arguments[0],
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

fn read_members(metadata: &Value) -> Option<Vec<Member>> {
    let root = metadata["workspace_root"].as_str()?;
    let mut members = Vec::new();
    for package in metadata["packages"].as_array()? {
        let manifest = package["manifest_path"].as_str()?;
        let folder = manifest
            .strip_prefix(root)?
            .trim_start_matches('/')
            .strip_suffix("/Cargo.toml")?
            .to_owned();
        let (own, foreign): (Vec<_>, Vec<_>) = package["dependencies"]
            .as_array()?
            .iter()
            .partition(|dependency| dependency["path"].is_string());
        let names = |dependencies: Vec<&Value>| {
            dependencies
                .into_iter()
                .map(|dependency| dependency["name"].as_str().map(str::to_owned))
                .collect()
        };
        let (own, foreign): (Option<_>, Option<_>) = (names(own), names(foreign));
        let name = package["name"].as_str()?.to_owned();
        members.push(Member {
            name,
            folder,
            own: own?,
            foreign: foreign?,
        });
    }
    members.sort_by(|a, b| a.name.cmp(&b.name));
    Some(members)
}

/// The crate, and its licence.
const TREE_FORMAT: &str = "{p}\t{l}";

/// Lines such as `serde v1.0.229<TAB>MIT OR Apache-2.0`; in parentheses, where one is from, when not from crates.io.
fn read_tree(tree: &str, members: &[Member]) -> BTreeSet<Foreign> {
    let mut found = BTreeSet::new();
    for (package, licence) in tree.lines().filter_map(|line| line.split_once('\t')) {
        let package = package.replace(" (proc-macro)", "");
        let (name, source) = match package.split_once(" (") {
            Some((name, source)) => (name, Some(source.trim_end_matches(')').to_owned())),
            None => (package.as_str(), None),
        };
        if !members
            .iter()
            .any(|member| name.split(' ').next() == Some(member.name.as_str()))
        {
            let licence = licence.trim_end_matches(" (*)").to_owned();
            found.insert(Foreign {
                name: name.replace(" v", " "),
                licence,
                source,
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_and_others_are_told_apart() {
        let metadata = serde_json::json!({
            "workspace_root": "/somewhere/pool",
            "packages": [{
                "name": "potluck-a",
                "manifest_path": "/somewhere/pool/crates/a/Cargo.toml",
                "dependencies": [
                    { "name": "potluck-b", "path": "/somewhere/pool/crates/b" },
                    { "name": "serde", "path": null },
                ],
            }],
        });
        let members = read_members(&metadata).unwrap();
        assert_eq!(members[0].folder, "crates/a");
        assert_eq!(members[0].own, BTreeSet::from(["potluck-b".to_owned()]));
        assert_eq!(members[0].foreign, BTreeSet::from(["serde".to_owned()]));
        assert!(read_members(&serde_json::json!({})).is_none());

        let tree = "potluck-a v0.1.0 (/somewhere)\tMIT\nserde v1.0.0\tMIT\nserde v1.0.0\tMIT (*)\n\n\
                    fork v2.0.0 (https://example.org/fork#1)\tMIT\nmacro v3.0.0 (proc-macro)\tISC";
        let say = |name: &str, licence: &str, source: Option<&str>| Foreign {
            name: name.to_owned(),
            licence: licence.to_owned(),
            source: source.map(str::to_owned),
        };
        let expected = [
            say("serde 1.0.0", "MIT", None),
            say("fork 2.0.0", "MIT", Some("https://example.org/fork#1")),
            say("macro 3.0.0", "ISC", None),
        ];
        assert_eq!(read_tree(tree, &members), BTreeSet::from(expected));
    }
}
