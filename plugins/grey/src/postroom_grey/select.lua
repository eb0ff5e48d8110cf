-- One step of a walk over the records: those that are meant, so that nothing else travels, not even keys.
-- KEYS: any key of the records' hash tag, which leads to their node. ARGV: cursor of SCAN, pattern of the records' keys,
--       how many keys a step looks at, now, what is meant as JSON (see redis_store.py), "count" or "read".
-- Returns the next cursor, and how many, or for each: key, then the fields in the order of `fields`.
local now, wanted, counts = tonumber(ARGV[4]), cjson.decode(ARGV[5]), ARGV[6] == 'count'

local function set(names)
  local found = {}
  for _, name in ipairs(names) do found[name] = true end
  return found
end

-- A pattern in pieces, with anything between them; time grows with the text, as in postroom.lists.patterns.
local function matches(pieces, text)
  local first, last = pieces[1], pieces[#pieces]
  if #pieces == 1 then return text == first end
  if #text < #first + #last or string.sub(text, 1, #first) ~= first
    or string.sub(text, #text - #last + 1) ~= last then return false end
  local position, stop = #first + 1, #text - #last
  for i = 2, #pieces - 1 do
    if pieces[i] ~= '' then
      local _, found = string.find(text, pieces[i], position, true)
      if not found or found > stop then return false end
      position = found + 1
    end
  end
  return true
end

local function any(patterns, text)
  if #patterns == 0 then return true end
  for _, pieces in ipairs(patterns) do
    if matches(pieces, text) then return true end
  end
  return false
end

local states, names = set(wanted.states), set(wanted.names)
local function is_client(client)
  return wanted.all_clients or names[client]
    or (wanted.prefix ~= false and string.sub(client, 1, #wanted.prefix) == wanted.prefix)
end

local step = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local found, count = {}, 0
for _, key in ipairs(step[2]) do
  local known = redis.call('HMGET', key, 'state', 'client', 'sender', 'recipient', 'expires')
  if known[1] and known[5] and tonumber(known[5]) > now and states[known[1]] and is_client(known[2])
    and any(wanted.senders, known[3]) and any(wanted.recipients, known[4]) then
    count = count + 1
    if not counts then
      found[#found + 1] = key
      for _, value in ipairs(redis.call('HMGET', key, unpack(wanted.fields))) do found[#found + 1] = value end
    end
  end
end
return {step[1], counts and count or found}
