//! Completions and man pages, from the command line's own description.

use crate::{cli::Cli, complaint::Complaint, terminal::Terminal};
use clap::CommandFactory;
use clap_complete::Shell;
use std::path::Path;

/// `potluck completions`.
pub(super) fn completions(shell: Shell, terminal: Terminal) -> Result<(), Complaint> {
    if terminal.json {
        return Err(Complaint::usage("completions are a script for a shell, and not JSON").hint("leave `--json` out"));
    }
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "potluck", &mut text);
    // Whoever reads it may have seen enough.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), &text);
    Ok(())
}

/// `potluck man`.
pub(super) fn man(folder: &Path, terminal: Terminal) -> Result<(), Complaint> {
    let failed = |error: std::io::Error| Complaint::io("cannot write to", folder, &error);
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(failed)?;
    let first = folder.join("potluck.1");
    if terminal.json {
        terminal.value(&serde_json::json!({ "folder": folder, "first": first }));
    }
    terminal.note(&format!("Read them with: man -l {}", first.display()));
    Ok(())
}
