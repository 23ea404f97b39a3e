//! Text of runs in little space: the numbers are cut out, what is left is a template that many runs share.
//!
//! `read 0x0684[4] -> st0.w f32 x16:1` becomes the template `read #[%] -> st%.w f%% x%:%` with the numbers beside it (`#` stands
//! for a hexadecimal word of four digits, `%` for a decimal number), so that the page shows exactly what the disassembler prints
//! and knows no instruction. A template that would hold one of these characters, or has a number with leading zeros or more
//! than nine digits, keeps those digits.

use std::collections::BTreeMap;

/// Templates seen so far, by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Templates {
    numbers: BTreeMap<String, u32>,
    list: Vec<String>,
    /// Of each template the numbers of the last text in the program.
    last: Vec<Vec<i64>>,
}

impl Templates {
    /// Cuts a text up: its template, and the difference of each of its numbers to that of the last text of this template in the program.
    pub fn cut(&mut self, text: &str) -> (u32, Vec<i64>) {
        let (template, numbers) = cut(text);
        let next = self.list.len() as u32;
        let id = *self.numbers.entry(template).or_insert_with_key(|template| {
            self.list.push(template.clone());
            self.last.push(vec![0; numbers.len()]);
            next
        });
        let deltas = match self.last.get_mut(id as usize) {
            Some(last) => {
                let deltas = numbers.iter().zip(last.iter()).map(|(n, l)| n - l).collect();
                *last = numbers;
                deltas
            }
            None => numbers,
        };
        (id, deltas)
    }

    /// Starts a program: differences count from zero again.
    pub fn restart(&mut self) {
        for last in &mut self.last {
            last.fill(0);
        }
    }

    /// All templates, by number.
    pub fn list(&self) -> &[String] {
        &self.list
    }
}

fn cut(text: &str) -> (String, Vec<i64>) {
    let bytes = text.as_bytes();
    let (mut template, mut numbers, mut at) = (String::with_capacity(text.len()), Vec::new(), 0);
    while at < bytes.len() {
        let rest = &text[at..];
        let hex = rest
            .strip_prefix("0x")
            .map_or(0, |r| run(r, |c| matches!(c, b'0'..=b'9' | b'a'..=b'f')));
        if hex == 4 {
            numbers.push(i64::from_str_radix(&rest[2..6], 16).unwrap_or(0));
            template.push('#');
            at += 6;
            continue;
        }
        if hex > 0 {
            template.push_str(&rest[..2 + hex]);
            at += 2 + hex;
            continue;
        }
        let digits = run(rest, |c| c.is_ascii_digit());
        let plain = digits == 1 || (digits > 1 && digits <= 9 && !rest.starts_with('0'));
        if plain {
            numbers.push(rest[..digits].parse().unwrap_or(0));
            template.push('%');
            at += digits;
        } else {
            // Any other character, or digits that stay; both end at a character's border.
            let step = digits.max(rest.chars().next().map_or(1, char::len_utf8));
            template.push_str(&rest[..step]);
            at += step;
        }
    }
    (template, numbers)
}

/// Length of the bytes at the start that satisfy a condition.
fn run(text: &str, is: impl Fn(u8) -> bool) -> usize {
    text.bytes().take_while(|&c| is(c)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text again, as the page puts it together.
    fn fill(template: &str, numbers: &[i64]) -> String {
        let mut numbers = numbers.iter();
        let mut out = String::new();
        for c in template.chars() {
            match c {
                '#' => out += &format!("0x{:04x}", numbers.next().expect("a number")),
                '%' => out += &numbers.next().expect("a number").to_string(),
                c => out.push(c),
            }
        }
        out
    }

    #[test]
    fn texts_come_back() {
        for text in [
            "read 0x0684[4/-12] -> st0.w f32 x16:1 lanes=0:320",
            "alu.mul 0.70710677, a12+3:f16 -> st4.e",
            "alu.add imm2=0xffffffff, 1e-5 fill=0x0 seg=1234567890",
        ] {
            let (template, numbers) = cut(text);
            assert_eq!(fill(&template, &numbers), text, "{template} {numbers:?}");
        }
    }

    #[test]
    fn texts_that_differ_in_numbers_share_a_template() {
        let mut t = Templates::default();
        assert_eq!(t.cut("read 0x0040 -> st4.e"), (0, vec![64, 4]));
        assert_eq!(t.cut("read 0x0044 -> st0.e"), (0, vec![4, -4]));
        assert_eq!(t.cut("read 0x0044 -> st0.w"), (1, vec![68, 0]));
        assert_eq!(t.list().len(), 2);
        t.restart();
        assert_eq!(t.cut("read 0x0044 -> st0.e"), (0, vec![68, 0]));
    }
}
