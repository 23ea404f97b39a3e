//! Splits text into lines of tokens; `;` starts a comment.

use super::{ParseError, Span};

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A word such as `v12`, `reduce.max` or `-inf`.
    Word(String),
    /// A number as written, with its sign.
    Number(String),
    /// A quoted string, unescaped.
    Text(String),
    /// A name after `@`.
    Name(String),
    /// Any other character.
    Mark(char),
}

/// The tokens of one line, with a cursor.
#[derive(Clone, Debug)]
pub struct Line {
    number: usize,
    tokens: Vec<(usize, Token)>,
    at: usize,
    end: usize,
}

impl Line {
    /// Where the next token is.
    pub fn span(&self) -> Span {
        let column = self.tokens.get(self.at).map_or(self.end, |t| t.0);
        Span {
            line: self.number,
            column,
        }
    }

    /// An error at the next token.
    pub fn error<T>(&self, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError {
            at: self.span(),
            message: message.into(),
        })
    }

    /// The next token, without taking it.
    pub fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|t| &t.1)
    }

    /// The token after the next.
    pub fn peek_second(&self) -> Option<&Token> {
        self.tokens.get(self.at + 1).map(|t| &t.1)
    }

    /// Takes the next token.
    pub fn next_token(&mut self) -> Option<Token> {
        let token = self.peek().cloned();
        self.at += 1;
        token
    }

    /// Takes this mark if it is next.
    pub fn eat(&mut self, mark: char) -> bool {
        let found = self.peek() == Some(&Token::Mark(mark));
        self.at += usize::from(found);
        found
    }

    /// Takes this word if it is next.
    pub fn eat_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(w)) if w == word);
        self.at += usize::from(found);
        found
    }

    /// Takes a mark that must be next.
    pub fn expect(&mut self, mark: char) -> Result<(), ParseError> {
        if self.eat(mark) {
            Ok(())
        } else {
            self.error(format!("expected '{mark}'"))
        }
    }

    /// Takes a word that must be next.
    pub fn word(&mut self) -> Result<String, ParseError> {
        match self.peek() {
            Some(Token::Word(word)) => {
                let word = word.clone();
                self.at += 1;
                Ok(word)
            }
            _ => self.error("expected a word"),
        }
    }

    /// Takes a number that must be next.
    pub fn number<T: std::str::FromStr>(&mut self) -> Result<T, ParseError> {
        match self.peek() {
            Some(Token::Number(text)) => match text.parse() {
                Ok(value) => {
                    self.at += 1;
                    Ok(value)
                }
                Err(_) => self.error(format!("number {text} is out of range here")),
            },
            _ => self.error("expected a number"),
        }
    }

    /// Takes a quoted string that must be next.
    pub fn text(&mut self) -> Result<String, ParseError> {
        match self.peek() {
            Some(Token::Text(text)) => {
                let text = text.clone();
                self.at += 1;
                Ok(text)
            }
            _ => self.error("expected a quoted string"),
        }
    }

    /// That the line is at its end.
    pub fn finish(&self) -> Result<(), ParseError> {
        if self.peek().is_none() {
            Ok(())
        } else {
            self.error("expected the end of the line")
        }
    }
}

/// The lines of a text that are not empty.
///
/// # Errors
/// At a string that does not end on its line.
pub fn lex(text: &str) -> Result<Vec<Line>, ParseError> {
    let mut lines = Vec::new();
    for (index, source) in text.lines().enumerate() {
        let chars: Vec<char> = source.chars().collect();
        let mut line = Line {
            number: index + 1,
            tokens: Vec::new(),
            at: 0,
            end: chars.len() + 1,
        };
        let mut at = 0;
        while at < chars.len() {
            let start = at;
            let c = chars[at];
            if c == ';' {
                break;
            }
            if c.is_whitespace() {
                at += 1;
                continue;
            }
            let token = if c == '"' {
                Token::Text(string(&chars, &mut at, index + 1)?)
            } else if c == '@' {
                at += 1;
                if chars.get(at) == Some(&'"') {
                    Token::Name(string(&chars, &mut at, index + 1)?)
                } else {
                    Token::Name(take(&chars, &mut at, |c| {
                        c.is_ascii_alphanumeric() || "._/:-".contains(c)
                    }))
                }
            } else if c.is_ascii_digit() || (c == '-' && chars.get(at + 1).is_some_and(char::is_ascii_digit)) {
                at += 1;
                let hex = c == '0' && chars.get(at) == Some(&'x');
                while at < chars.len() {
                    let sign = matches!(chars[at], '+' | '-') && !hex && matches!(chars[at - 1], 'e' | 'E');
                    if !(chars[at].is_ascii_alphanumeric() || chars[at] == '.' || sign) {
                        break;
                    }
                    at += 1;
                }
                Token::Number(chars[start..at].iter().collect())
            } else if c.is_ascii_alphabetic() || c == '_' || (c == '-' && chars.get(at + 1) == Some(&'i')) {
                at += 1;
                take(&chars, &mut at, |c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
                Token::Word(chars[start..at].iter().collect())
            } else {
                at += 1;
                Token::Mark(c)
            };
            line.tokens.push((start + 1, token));
        }
        if !line.tokens.is_empty() {
            lines.push(line);
        }
    }
    Ok(lines)
}

fn take(chars: &[char], at: &mut usize, keep: impl Fn(char) -> bool) -> String {
    let start = *at;
    while *at < chars.len() && keep(chars[*at]) {
        *at += 1;
    }
    chars[start..*at].iter().collect()
}

/// A string in Rust's escapes, from its opening quote.
fn string(chars: &[char], at: &mut usize, line: usize) -> Result<String, ParseError> {
    let open = Span { line, column: *at + 1 };
    let bad = |message: &str| ParseError {
        at: open,
        message: message.to_string(),
    };
    *at += 1;
    let mut text = String::new();
    loop {
        let c = *chars
            .get(*at)
            .ok_or_else(|| bad("a string that does not end on its line"))?;
        *at += 1;
        match c {
            '"' => return Ok(text),
            '\\' => {
                let c = *chars
                    .get(*at)
                    .ok_or_else(|| bad("a string that does not end on its line"))?;
                *at += 1;
                match c {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    'u' => {
                        *at += 1;
                        let hex = take(chars, at, |c| c.is_ascii_hexdigit());
                        *at += 1;
                        let code = u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32);
                        text.push(code.ok_or_else(|| bad("a string with an escape that is no character"))?);
                    }
                    c => text.push(c),
                }
            }
            c => text.push(c),
        }
    }
}
