//! The terminal: results on standard output; everything else, progress and questions too, on standard error.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use crate::{
    complaint::{Complaint, Kind},
    place::escape,
};
use indicatif::{ProgressBar, ProgressStyle};
use potluck_types::ByteSize;
use serde::Serialize;
use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

/// How often progress is told where there is no terminal to redraw.
const LINE_INTERVAL: Duration = Duration::from_secs(2);
/// What has not moved for so long is said to stand still.
const STILL: Duration = Duration::from_secs(5);

/// How to speak with the person.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    /// Results are JSON.
    pub(crate) json: bool,
    /// Only results and errors.
    pub(crate) quiet: bool,
    /// Every question is answered with yes.
    pub(crate) yes: bool,
}

/// A secret that a person may be asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Secret {
    /// What it is called.
    pub(crate) name: &'static str,
    /// The variable of the environment that may have it.
    pub(crate) variable: &'static str,
    /// The option that names a file with it.
    pub(crate) option: &'static str,
}

impl Terminal {
    /// A line of the result.
    pub(crate) fn line(self, text: &str) {
        write_out(text.as_bytes(), b"\n");
    }

    /// A result as JSON, on a line of its own.
    pub(crate) fn value(self, value: &impl Serialize) {
        self.line(&serde_json::to_string(value).unwrap_or_default());
    }

    /// The result, for people or for programs.
    pub(crate) fn result(self, value: &impl Serialize, text: impl FnOnce() -> String) {
        if self.json {
            self.value(value);
        } else {
            let text = text();
            if !text.is_empty() {
                self.line(&text);
            }
        }
    }

    /// Something that helps, but is not the result.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet && !self.json {
            eprintln!("{text}");
        }
    }

    /// Something that a person should know, but that stops nothing.
    pub(crate) fn warn(self, text: &str) {
        if !self.json {
            eprintln!("warning: {text}");
        }
    }

    /// What went wrong.
    pub(crate) fn complain(self, complaint: &Complaint) {
        if self.json {
            eprintln!("{}", serde_json::json!({ "error": complaint }));
            return;
        }
        eprintln!("error: {}", escape(&complaint.message));
        for hint in &complaint.hints {
            eprintln!("hint: {}", escape(hint));
        }
    }

    /// Asks for a yes.
    pub(crate) fn confirm(self, question: &str) -> Result<(), Complaint> {
        if self.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            let complaint = Complaint::usage(format!("nobody is here to answer: {question}"));
            return Err(complaint.hint("`--yes` answers for you"));
        }
        eprint!("{question} [y/N] ");
        let mut answer = String::new();
        io::stdin()
            .read_line(&mut answer)
            .map_err(|error| Complaint::failed(format!("no answer: {error}")))?;
        if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
            Ok(())
        } else {
            Err(Complaint::new(Kind::Refused, "not done, as you said"))
        }
    }

    /// Does what may have to be asked about first: with the person's yes if it was typed already, else without, and asks when it turns out that one is
    /// needed and somebody is here to give it.
    pub(crate) fn insist<T>(self, act: impl Fn(bool) -> Result<T, Complaint>) -> Result<T, Complaint> {
        match act(self.yes) {
            Err(complaint) if complaint.asks && !self.yes && io::stdin().is_terminal() => {
                self.confirm(&question(&complaint.message))?;
                act(true)
            }
            outcome => outcome,
        }
    }

    /// Asks for a secret, twice if it is a new one.
    pub(crate) fn secret(self, what: Secret, is_new: bool) -> Result<Zeroizing<String>, Complaint> {
        let Secret { name, variable, option } = what;
        let failed = |error: io::Error| {
            Complaint::usage(format!("the {name} cannot be asked for: {error}"))
                .hint(format!("give it with `{option}` or in {variable}"))
        };
        let (first, rest) = name.split_at(1);
        let prompt = format!("{}{rest}: ", first.to_uppercase());
        let secret = Zeroizing::new(rpassword::prompt_password(prompt).map_err(failed)?);
        if is_new {
            let again = Zeroizing::new(rpassword::prompt_password("The same again: ").map_err(failed)?);
            if *again != *secret {
                return Err(Complaint::usage(format!("the two {name}s differ")));
            }
        }
        Ok(secret)
    }

    /// Draws over what the last call drew, on a terminal; appends elsewhere.
    pub(crate) fn redraw(self, text: &str) {
        let home_and_clear = if io::stdout().is_terminal() {
            "\x1b[H\x1b[2J"
        } else {
            ""
        };
        write_out(home_and_clear.as_bytes(), text.as_bytes());
        write_out(b"\n", b"");
    }

    /// Progress towards so many bytes, if that is known.
    pub(crate) fn progress(self, doing: &'static str, bytes: Option<u64>) -> Progress {
        let silent = self.quiet || self.json;
        let bar = (!silent && io::stderr().is_terminal()).then(|| match bytes {
            Some(bytes) => ProgressBar::new(bytes).with_style(style(
                "{prefix} {bar:30} {decimal_bytes:>10} of {decimal_total_bytes}  {decimal_bytes_per_sec:>12}  {eta:>4} left  {msg}",
            )),
            None => ProgressBar::new_spinner().with_style(style(
                "{prefix} {spinner} {decimal_bytes:>10}  {decimal_bytes_per_sec:>12}  {msg}",
            )),
        });
        if let Some(bar) = &bar {
            bar.set_prefix(doing);
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        let now = Instant::now();
        Progress {
            doing,
            silent,
            bar,
            total: bytes,
            begun: now,
            told: now,
            at: (0, now),
        }
    }
}

/// What a complaint says, as a question.
fn question(message: &str) -> String {
    let mut letters = message.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    format!("{}{}. Do it?", first.unwrap_or_default(), escape(letters.as_str()))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the template is right")
        .progress_chars("━╸─")
}

/// Whoever reads may have seen enough (`potluck ls | head`): that is no failure.
fn write_out(first: &[u8], then: &[u8]) {
    let mut out = io::stdout().lock();
    if let Err(error) = out
        .write_all(first)
        .and_then(|()| out.write_all(then))
        .and_then(|()| out.flush())
    {
        let code = i32::from(error.kind() != io::ErrorKind::BrokenPipe);
        std::process::exit(code);
    }
}

/// Progress that a person sees.
#[derive(Debug)]
pub(crate) struct Progress {
    doing: &'static str,
    silent: bool,
    bar: Option<ProgressBar>,
    total: Option<u64>,
    begun: Instant,
    told: Instant,
    /// Where it is, and since when.
    at: (u64, Instant),
}

impl Progress {
    /// So many bytes are done, and this besides.
    pub(crate) fn at(&mut self, bytes: u64, besides: &str) {
        if self.at.0 != bytes {
            self.at = (bytes, Instant::now());
        }
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            bar.set_message(besides.to_owned());
        } else if !self.silent && self.told.elapsed() >= self.line_interval() {
            self.told = Instant::now();
            let (of, left) = match self.total {
                Some(total) => (format!(" of {}", ByteSize(total)), self.left(bytes, total)),
                None => (String::new(), None),
            };
            let parts = [
                Some(format!("{} {}{of}", self.doing, ByteSize(bytes))),
                Some(rate(bytes, self.begun.elapsed())),
                left.map(|left| format!("{} left", seconds(left))),
                Some(besides.to_owned()).filter(|besides| !besides.is_empty()),
            ];
            eprintln!("{}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "));
        }
    }

    /// How long nothing has moved, when that is long enough to wonder.
    pub(crate) fn still(&self) -> Option<Duration> {
        Some(self.at.1.elapsed()).filter(|still| *still >= STILL)
    }

    /// What does not move is told less and less often.
    fn line_interval(&self) -> Duration {
        self.still().map_or(LINE_INTERVAL, |still| LINE_INTERVAL.max(still / 2))
    }

    /// How long the rest takes at the rate so far.
    fn left(&self, bytes: u64, total: u64) -> Option<Duration> {
        let left = total.checked_sub(bytes)?;
        // Of the first hundredth nobody can tell.
        let is_known = bytes >= total / 100 && bytes > 0 && left > 0 && self.still().is_none();
        is_known.then(|| self.begun.elapsed().mul_f64(left as f64 / bytes as f64))
    }

    /// The total is known better now.
    pub(crate) fn of(&mut self, bytes: u64) {
        self.total = Some(bytes);
        if let Some(bar) = &self.bar {
            bar.set_length(bytes);
        }
    }

    /// Takes the bar away; gives the time that it all took.
    pub(crate) fn done(self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.begun.elapsed()
    }
}

/// Bytes a second, for people.
pub(crate) fn rate(bytes: u64, time: Duration) -> String {
    format!("{}/s", ByteSize((bytes as f64 / time.as_secs_f64().max(0.001)) as u64))
}

/// A time, for people: `0.4 s`, `12 s`, `3 min 5 s`.
pub(crate) fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{} s", time.as_secs()),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

/// A number and its noun: `1 file`, `2 files`, `3 entries`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    match (number, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {noun}s"),
    }
}

/// Entries of a log.
pub(crate) fn count_entries(entries: u64) -> String {
    match entries {
        1 => "1 entry".to_owned(),
        entries => format!("{entries} entries"),
    }
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn listed(items: impl IntoIterator<Item = impl ToString>, last: &str) -> String {
    let mut items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    let end = items.pop().unwrap_or_default();
    match items.is_empty() {
        true => end,
        false => format!("{} {last} {end}", items.join(", ")),
    }
}

/// Lines of cells, as wide as their widest; numbers that end in digits or units read well left-aligned too.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
