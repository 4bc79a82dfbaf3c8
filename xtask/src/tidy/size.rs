//! The longest files and functions, so that everyone sees what grows.

use super::File;
use crate::lexer::{code, product_part};

/// How many of each are shown.
const SHOWN: usize = 5;

/// Prints both lists. Tests do not count.
pub(super) fn print(files: &[File]) {
    let rust = files
        .iter()
        .filter(|file| file.is_rust() && !file.path.ends_with("tests.rs") && !file.path.contains("/tests/"));
    let (mut long_files, mut long_functions) = (Vec::new(), Vec::new());
    for file in rust {
        let text = product_part(&file.text);
        long_files.push((text.lines().count(), file.path.clone()));
        let functions = functions(&code(text).text).into_iter();
        long_functions
            .extend(functions.map(|found| (found.lines, format!("{} in {}:{}", found.name, file.path, found.line))));
    }
    for (what, mut lengths) in [("files", long_files), ("functions", long_functions)] {
        lengths.sort_by(|a, b| b.cmp(a));
        println!("longest {what}, in lines:");
        for (lines, name) in lengths.iter().take(SHOWN) {
            println!("{lines:>6}  {name}");
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
struct Function {
    name: String,
    /// Where it begins, from 1.
    line: usize,
    lines: usize,
}

/// Every function with a body, nested ones too, by counting braces in what is code.
fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            continue;
        }
        let rest = &code[at + 3..];
        let name: String = rest
            .chars()
            .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
            .collect();
        if let (false, Some(len)) = (name.is_empty(), body_end(rest)) {
            let line = code[..at].matches('\n').count() + 1;
            found.push(Function {
                name,
                line,
                lines: rest[..len].matches('\n').count() + 1,
            });
        }
    }
    found
}

/// Where the body ends, from the name on; nothing when there is none, as in a trait.
fn body_end(rest: &str) -> Option<usize> {
    let (mut braces, mut brackets) = (0u32, 0u32);
    for (at, letter) in rest.char_indices() {
        match letter {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets = brackets.saturating_sub(1),
            ';' if braces == 0 && brackets == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces = braces.checked_sub(1)?;
                if braces == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: &[(&str, usize, usize)]) {
        let found = functions(&code(source).text);
        let found: Vec<_> = found
            .iter()
            .map(|function| (&*function.name, function.line, function.lines))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn functions_are_measured() {
        check("fn a() {\n  b();\n}\n", &[("a", 1, 3)]);
        check("trait T {\n  fn a();\n  fn b(x: [u8; 2]) {}\n}", &[("b", 3, 1)]);
        check(
            "fn a() {\n  // }\n  \"}\";\n  fn b() {}\n}",
            &[("a", 1, 5), ("b", 4, 1)],
        );
        check(
            "type F = fn (u8);\nfn a<F: Fn(u8) -> u8>() where F: Copy {\n}",
            &[("a", 2, 2)],
        );
    }
}
