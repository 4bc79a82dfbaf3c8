//! Other programs: run to their end, within a time.

use std::{
    fmt,
    io::Read,
    os::unix::process::CommandExt,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How often a program is looked at that runs.
const POLL: Duration = Duration::from_millis(10);

/// Why something could not be done.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a program said, and how it ended; no status when it did not end in its time, and was killed.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: Option<ExitStatus>,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) took: Duration,
}

impl Ended {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.and_then(|status| status.code())
    }

    pub(crate) fn is_good(&self) -> bool {
        self.code() == Some(0)
    }
}

/// Runs a program that does what it is told at once.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<(), Failure> {
    let told = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| Failure(format!("{}: {error}", told())))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure(format!("{}: {}", told(), said.trim())))
}

/// Runs a program to its end, or kills it after this time.
pub(crate) fn within(command: &mut Command, limit: Duration) -> Result<Ended, Failure> {
    let begun = Instant::now();
    // Ctrl-C is for the run, which lets commands end.
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| Failure(format!("{}: {error}", command.get_program().to_string_lossy())))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let out = thread::spawn(move || text(out));
    let err = thread::spawn(move || text(err));
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if begun.elapsed() < limit => thread::sleep(POLL),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    Ok(Ended {
        status,
        out: out.join().unwrap_or_default(),
        err: err.join().unwrap_or_default(),
        took: begun.elapsed(),
    })
}

fn text(stream: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        let _ = stream.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
