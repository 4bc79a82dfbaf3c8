//! Takes Rust source apart, as far as the rules need it: what is code, and what a literal says. Good for source that compiles.

/// A string literal: the line that it begins on (from 1), and its text as written.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Literal {
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// Source without what a reader would not call code.
pub(crate) struct Code {
    /// As long as the source, line by line; comments, literals' contents and their quotes are blanks.
    pub(crate) text: String,
    pub(crate) literals: Vec<Literal>,
}

/// Everything of a file but its tests, which the house style puts last.
pub(crate) fn product_part(source: &str) -> &str {
    let end = source.find("\n#[cfg(test)]\nmod ");
    &source[..end.unwrap_or(source.len())]
}

/// See the module.
pub(crate) fn code(source: &str) -> Code {
    let mut text = String::with_capacity(source.len());
    let mut literals = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let after_word = text.ends_with(|last: char| last.is_alphanumeric() || last == '_');
        let (len, literal) = token(rest, after_word);
        match literal {
            _ if len == 0 => {
                text.push(first);
                rest = &rest[first.len_utf8()..];
                continue;
            }
            Some(literal) => literals.push(Literal {
                line: text.matches('\n').count() + 1,
                text: literal.to_owned(),
            }),
            None => {}
        }
        text.extend(
            rest[..len]
                .chars()
                .map(|letter| if letter == '\n' { '\n' } else { ' ' }),
        );
        rest = &rest[len..];
    }
    Code { text, literals }
}

/// How long the comment or literal is that `rest` begins with, 0 when it is neither; and what the literal says.
fn token(rest: &str, after_word: bool) -> (usize, Option<&str>) {
    if rest.starts_with("//") {
        (rest.find('\n').unwrap_or(rest.len()), None)
    } else if rest.starts_with("/*") {
        (block_comment(rest), None)
    } else if let Some(body) = rest.strip_prefix('"') {
        let len = quoted(body, '"');
        (len + 2, body.get(..len))
    } else if let Some((prefix, hashes)) = raw_start(rest).filter(|_| !after_word) {
        let end = format!("\"{}", "#".repeat(hashes));
        let body = &rest[prefix..];
        let len = body.find(&end).unwrap_or(body.len());
        ((prefix + len + end.len()).min(rest.len()), Some(&body[..len]))
    } else if let Some(body) = rest.strip_prefix('\'') {
        // A letter in quotes, or the name of a lifetime.
        let mut letters = body.chars();
        match (letters.next(), letters.next()) {
            (Some('\\'), _) => (quoted(body, '\'') + 2, None),
            (Some(letter), Some('\'')) => (letter.len_utf8() + 2, None),
            _ => (0, None),
        }
    } else {
        (0, None)
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// Bytes up to the closing quote.
fn quoted(body: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, letter) in body.char_indices() {
        if letter == quote && !is_escaped {
            return at;
        }
        is_escaped = letter == '\\' && !is_escaped;
    }
    body.len()
}

/// Bytes before the contents of a raw string, and its number of hash signs.
fn raw_start(rest: &str) -> Option<(usize, usize)> {
    let raw = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    raw[hashes..]
        .starts_with('"')
        .then(|| (rest.len() - raw.len() + hashes + 1, hashes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, text: &str, literals: &[&str]) {
        let found = code(source);
        assert_eq!(found.text, text);
        let said: Vec<_> = found.literals.iter().map(|literal| &*literal.text).collect();
        assert_eq!(said, literals);
    }

    #[test]
    fn comments_and_literals_are_blanked() {
        check("a(\"b{\") // }", "a(    )     ", &["b{"]);
        check("a /* { /* } */ */ b", "a                 b", &[]);
        check(r#"r"x" "\"y" br"z""#, "                ", &["x", "\\\"y", "z"]);
        check(
            "'{' '\\'' '\\u{7d}' <'a> 'b: loop",
            "                  <'a> 'b: loop",
            &[],
        );
        check("r#\"a\"b\"# c", "         c", &["a\"b"]);
        check("r#type = 1", "r#type = 1", &[]);
    }

    #[test]
    fn lines_stay() {
        let found = code("a\n\"b\nc\"\n\"d\"");
        assert_eq!(found.text.lines().count(), 4);
        assert_eq!(
            found.literals[1],
            Literal {
                line: 4,
                text: "d".to_owned()
            }
        );
    }

    #[test]
    fn tests_are_no_product() {
        assert_eq!(product_part("a\n#[cfg(test)]\nmod tests {\n"), "a");
        assert_eq!(product_part("a\n"), "a\n");
    }
}
