import { describe, expect, test } from 'vitest';
import { parseExactly } from './exact-json';

describe('what is read of JSON', () => {
  test.each(['{"a":[1,-0.5,1000000,"1.0",null,true],"b":{}}', '[]', '7'])(
    'is what JSON.parse reads: %s',
    (text) => {
      expect(parseExactly(text)).toEqual(JSON.parse(text));
    },
  );

  test.skipIf(!('rawJSON' in JSON)).each(['12345678901234567890', '[1.10]', '{"a":1e400}'])(
    'is written as it was: %s',
    (text) => {
      expect(JSON.stringify(parseExactly(text))).toBe(text);
    },
  );

  test('is nothing where it is none', () => {
    expect(() => parseExactly('{')).toThrow(SyntaxError);
  });
});
