//! How inputs are changed: bytes of any kind, protobuf messages field by field, and files by patches.

use super::random::Random;

/// Numbers at the edges of what lengths, revisions and indexes can be.
const EDGES: [u64; 18] = [
    0,
    1,
    2,
    3,
    7,
    0x7f,
    0x80,
    0xff,
    0x100,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64 - 1,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];
/// Bytes that one mutation adds at most.
const ADDED_MAX: usize = 64;
/// Inputs do not grow past this.
const INPUT_BYTES_MAX: usize = 64 << 10;
/// Messages within messages; more than the 100 that prost stands.
const NESTED_MAX: usize = 130;

/// A number at an edge, or a little beside one, or any.
pub fn number(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => random.next(),
        1 => random.pick(&EDGES).wrapping_add(random.below(5) as u64).wrapping_sub(2),
        _ => random.pick(&EDGES),
    }
}

/// Changes bytes of which nothing is known.
pub fn bytes(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(input.len() + 1);
    match random.below(9) {
        0 | 1 => flip(input, random),
        2 => input.truncate(at),
        3 => {
            let end = at + random.below(input.len() - at + 1);
            input.drain(at..end);
        }
        4 => {
            let part = slice(other, random).to_vec();
            input.splice(at..at, part);
        }
        5 => {
            input.truncate(at);
            input.extend_from_slice(slice(other, random));
        }
        6 => {
            let added: Vec<u8> = (0..random.below(ADDED_MAX)).map(|_| random.next() as u8).collect();
            input.splice(at..at, added);
        }
        7 => overwrite_number(input, random),
        _ => {
            let part = slice(&input.clone(), random).to_vec();
            input.splice(at..at, part);
        }
    }
    input.truncate(INPUT_BYTES_MAX);
}

fn flip(input: &mut [u8], random: &mut Random) {
    if !input.is_empty() {
        let at = random.below(input.len());
        input[at] = if random.percent(50) { input[at] ^ 1 << random.below(8) } else { random.next() as u8 };
    }
}

/// A number of 1, 2, 4 or 8 bytes, in either order.
fn overwrite_number(input: &mut [u8], random: &mut Random) {
    let width = random.pick(&[1, 2, 4, 8]);
    if input.len() < width {
        return;
    }
    let at = random.below(input.len() - width + 1);
    let number = number(random);
    let bytes = if random.percent(50) { number.to_le_bytes() } else { number.swap_bytes().to_le_bytes() };
    let from = if random.percent(50) { 0 } else { 8 - width };
    input[at..at + width].copy_from_slice(&bytes[from..from + width]);
}

fn slice<'a>(bytes: &'a [u8], random: &mut Random) -> &'a [u8] {
    let from = random.below(bytes.len() + 1);
    let most = if random.percent(80) { ADDED_MAX } else { bytes.len() };
    let len = random.below((bytes.len() - from).min(most) + 1);
    &bytes[from..from + len]
}

/// One field of a message: key, and what stands behind it without its length.
#[derive(Clone)]
struct Field {
    key: u64,
    value: Vec<u8>,
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

/// Changes an encoded protobuf message so that it stays one, most of the time.
pub fn message(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let Some(mut fields) = parse(input).filter(|_| random.percent(90)) else { return bytes(input, other, random) };
    let others = parse(other).unwrap_or_default();
    change(&mut fields, &others, other, random);
    *input = encode(&fields);
    if random.percent(3) {
        // A length of which nothing is there.
        input.push((1 + random.below(6) as u8) << 3 | LENGTH as u8);
        put_varint(number(random), input);
    }
    input.truncate(INPUT_BYTES_MAX);
}

fn change(fields: &mut Vec<Field>, others: &[Field], other: &[u8], random: &mut Random) {
    let at = random.below(fields.len() + 1);
    match random.below(10) {
        0 if at < fields.len() => drop(fields.remove(at)),
        1 if at < fields.len() => fields.push(fields[at].clone()),
        2 if at < fields.len() => {
            let with = random.below(fields.len());
            fields.swap(at, with);
        }
        3 if at < fields.len() => fields[at].key = (1 + random.below(12) as u64) << 3 | fields[at].key & 7,
        4 if !others.is_empty() => fields.insert(at, random.pick(others)),
        5 => fields.insert(at, Field { key: (1 + random.below(12) as u64) << 3, value: varint(number(random)) }),
        6 => {
            let value = slice(other, random).to_vec();
            fields.insert(at, Field { key: (1 + random.below(12) as u64) << 3 | LENGTH, value });
        }
        7 if random.percent(10) => nest(fields, random),
        _ if at < fields.len() => change_value(&mut fields[at], other, random),
        _ => {}
    }
}

fn change_value(field: &mut Field, other: &[u8], random: &mut Random) {
    match field.key & 7 {
        VARINT => field.value = varint(number(random)),
        LENGTH => match parse(&field.value).filter(|nested| !nested.is_empty() && random.percent(70)) {
            Some(_) => message(&mut field.value, other, random),
            None => bytes(&mut field.value, other, random),
        },
        _ => flip(&mut field.value, random),
    }
}

/// Puts a message into itself, many times.
fn nest(fields: &mut Vec<Field>, random: &mut Random) {
    let key = (1 + random.below(5) as u64) << 3 | LENGTH;
    for _ in 0..random.below(NESTED_MAX) {
        let value = encode(fields);
        if value.len() > INPUT_BYTES_MAX / 2 {
            return;
        }
        *fields = vec![Field { key, value }];
    }
}

fn parse(mut rest: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let key = take_varint(&mut rest)?;
        let value = match key & 7 {
            VARINT => varint(take_varint(&mut rest)?),
            FIXED64 => rest.split_off(..8)?.to_vec(),
            LENGTH => {
                let len = usize::try_from(take_varint(&mut rest)?).ok()?;
                rest.split_off(..len)?.to_vec()
            }
            FIXED32 => rest.split_off(..4)?.to_vec(),
            _ => return None,
        };
        fields.push(Field { key, value });
    }
    Some(fields)
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for Field { key, value } in fields {
        put_varint(*key, &mut out);
        if key & 7 == LENGTH {
            put_varint(value.len() as u64, &mut out);
        }
        out.extend_from_slice(value);
    }
    out
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn varint(number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(number, &mut out);
    out
}

/// Reads a script: an input that says what is to be done. A script that ends says zeroes.
pub struct Script<'a>(pub &'a [u8]);

impl Script<'_> {
    /// Whether nothing is left of it.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A number below `end`, which is not 0, of three bytes: enough to reach every byte of the files here.
    pub fn below(&mut self, end: usize) -> usize {
        let (high, low) = (self.byte(), self.short());
        (usize::from(high) << 16 | usize::from(low)) % end
    }

    /// A number below `end`, which is not 0, of one byte.
    pub fn below_byte(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub fn long(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }
}

/// Changes a file as a script says, in one place: one of `places`, mostly, if there are any.
pub fn patch(file: &mut Vec<u8>, places: &[usize], script: &mut Script<'_>) {
    let at = script.below(file.len() + 1);
    let at = if places.is_empty() || at.is_multiple_of(8) { at } else { places[at % places.len()].min(file.len()) };
    match script.byte() % 8 {
        0 | 1 => {
            let bit = script.byte() % 8;
            if let Some(byte) = file.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        2 => file.truncate(at),
        3 => {
            let len = script.below(8192).min(file.len() - at);
            file[at..at + len].fill(0);
        }
        4 => {
            let (from, len) = (script.below(file.len() + 1), script.below(4096));
            let part = file[from..(from + len).min(file.len())].to_vec();
            let len = part.len().min(file.len() - at);
            file[at..at + len].copy_from_slice(&part[..len]);
        }
        5 => {
            let number = script.long().to_le_bytes();
            let len = (1 << (script.byte() % 4)).min(file.len() - at);
            file[at..at + len].copy_from_slice(&number[..len]);
        }
        6 => {
            let len = script.below(256);
            file.extend((0..len).map(|at| at as u8));
        }
        _ => {
            let byte = script.byte();
            if let Some(at) = file.get_mut(at) {
                *at = byte;
            }
        }
    }
}
