-- wrk: one request per connection, a bounded number of them per thread, the paths in turn.
-- A thread has one connection, and stops after an answer: nothing is under way then, so wrk's end cuts no exchange short.
local ffi = require("ffi")
ffi.cdef [[
    typedef struct { long sec; long usec; } demo_timeval;
    int gettimeofday(demo_timeval *now, void *zone);
]]

local LIMIT = 400
local prefixes = { "/a/", "/b/", "/c/", "/who", "/p/" }
local threads = {}

function setup(thread)
    thread:set("id", #threads + 1)
    thread:set("answers", 0)
    table.insert(threads, thread)
end

function init(args)
    sent = 0
    -- In the paths, so that the same request over the other family is another one.
    family = wrk.host:find(":") and "6" or "4"
end

function request()
    sent = sent + 1
    local prefix = prefixes[sent % #prefixes + 1]
    local path = prefix == "/who" and prefix or prefix .. "wrk-" .. family .. "-" .. id .. "-" .. sent
    return wrk.format("GET", path)
end

function response(status)
    if status == 200 then answers = answers + 1 end
    if sent >= LIMIT then wrk.thread:stop() end
end

function done(summary)
    local now = ffi.new("demo_timeval")
    ffi.C.gettimeofday(now, nil)
    local total = 0
    for _, thread in ipairs(threads) do total = total + thread:get("answers") end
    local e = summary.errors
    io.write(string.format("demo answers=%d errors=%d end=%.6f\n", total,
        e.connect + e.read + e.write + e.status + e.timeout, tonumber(now.sec) + tonumber(now.usec) / 1e6))
end
