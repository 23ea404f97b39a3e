//! Values of flags: from text, with what is allowed where the text is wrong.

/// `auto`, or how many.
#[cfg(feature = "compile")]
pub fn chips(text: &str) -> Result<lockstep::Chips, String> {
    if text == "auto" {
        return Ok(lockstep::Chips::Auto);
    }
    match text.parse::<u16>() {
        Ok(n) if n > 0 => Ok(lockstep::Chips::Exactly(n)),
        _ => Err("allowed are auto and 1 to 65535".into()),
    }
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected two parts with = between them".into()),
    }
}

#[cfg(feature = "compile")]
pub(super) fn vary(text: &str) -> Result<(String, Vec<String>), String> {
    let (key, list) = pair(text)?;
    let mut values: Vec<String> = Vec::new();
    for value in list.split(',') {
        match value {
            "" => return Err("a value is empty".into()),
            _ if values.iter().any(|v| v == value) => return Err(format!("{value} is listed twice")),
            _ => values.push(value.to_owned()),
        }
    }
    Ok((key, values))
}

#[cfg(feature = "compile")]
pub(super) fn dim(text: &str) -> Result<(String, Vec<usize>), String> {
    let (name, list) = pair(text)?;
    let mut sizes = Vec::new();
    for value in list.split(',') {
        match value.parse() {
            Ok(n) if n > 0 && sizes.contains(&n) => return Err(format!("{n} is listed twice")),
            Ok(n) if n > 0 => sizes.push(n),
            _ => return Err(format!("{value:?} is no size; allowed is a whole number from 1")),
        }
    }
    Ok((name, sizes))
}

#[cfg(feature = "compile")]
pub(super) fn shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let (name, value) = pair(text)?;
    let sizes = value.split('x').map(str::parse).collect::<Result<Vec<usize>, _>>();
    match sizes {
        Ok(sizes) => Ok((name, sizes)),
        Err(_) => Err(format!("{value:?} is no shape; expected sizes with x between them")),
    }
}

#[cfg(any(feature = "compile", feature = "generate"))]
pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("allowed is a whole number from 1".into()),
    }
}

/// A word of SRAM as it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Chip.
    pub chip: u16,
    /// Slice group, those of the east side first.
    pub group: u8,
    /// Bank.
    pub bank: u8,
    /// Word of the bank.
    pub word: u16,
}

/// `c2:mem5:b1:0x05c4`, also with dots, and without the letters.
pub(super) fn address(text: &str) -> Result<Address, String> {
    let whole = || format!("{text:?} is no address; expected one such as c2:mem5:b1:0x05c4");
    let parts: Vec<&str> = text.split([':', '.']).collect();
    let [chip, group, bank, word] = parts[..] else {
        return Err(whole());
    };
    let number = |part: &str, letters: &str| -> Result<u16, String> {
        let part = part.strip_prefix(letters).unwrap_or(part);
        let parsed = part
            .strip_prefix("0x")
            .map_or_else(|| part.parse(), |hex| u16::from_str_radix(hex, 16));
        parsed.map_err(|_| whole())
    };
    let small = |part: &str, letters: &str| u8::try_from(number(part, letters)?).map_err(|_| whole());
    Ok(Address {
        chip: number(chip, "c")?,
        group: small(group, "mem")?,
        bank: small(bank, "b")?,
        word: number(word, "")?,
    })
}

/// `h226` or `226`.
pub(super) fn chain(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix('h').unwrap_or(text);
    number
        .parse()
        .map_err(|_| format!("{text:?} is no chain; expected one such as h226"))
}

pub(super) fn cycles(text: &str) -> Result<(u64, u64), String> {
    let whole = || format!("{text:?} is no range of cycles; expected A..B, A.. or A");
    let number = |s: &str| s.parse::<u64>().map_err(|_| whole());
    let (a, b) = match text.split_once("..") {
        None => (number(text)?, number(text)?.saturating_add(1)),
        Some((a, "")) => (number(a)?, u64::MAX),
        Some((a, b)) => (number(a)?, number(b)?),
    };
    if a < b { Ok((a, b)) } else { Err(whole()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn addresses() {
        let at = |chip, group, bank, word| {
            Ok(Address {
                chip,
                group,
                bank,
                word,
            })
        };
        assert_eq!(address("c2:mem5:b1:0x05c4"), at(2, 5, 1, 0x5c4));
        assert_eq!(address("c2.mem5.b1:12"), at(2, 5, 1, 12));
        assert_eq!(address("0:0:0:0"), at(0, 0, 0, 0));
        for wrong in ["c2:mem5:b1", "c2:mem500:b1:0", "c2:mem5:b1:0x1ffff", "c2:mxm0:b0:0", ""] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
        assert_eq!(chain("h226"), Ok(226));
        assert!(chain("x").is_err());
    }

    #[test]
    fn ranges_of_cycles() {
        assert_eq!(cycles("3..9"), Ok((3, 9)));
        assert_eq!(cycles("3.."), Ok((3, u64::MAX)));
        assert_eq!(cycles("3"), Ok((3, 4)));
        assert!(cycles("9..3").is_err());
        assert!(cycles("x").is_err());
    }
}
