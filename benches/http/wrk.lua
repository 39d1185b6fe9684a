-- wrk: each thread asks for one pool of the lab's proxy, and, where three addresses are
-- given (the servers asked directly), one of them. The last line is JSON.
local pools = { "a", "b", "c" }
local threads = {}

function setup(thread)
    local n = #threads % #pools + 1
    thread:set("pool", pools[n])
    local direct = os.getenv("DIRECT")
    if direct then
        local i = 0
        for address in direct:gmatch("[^,]+") do
            i = i + 1
            if i == n then thread.addr = wrk.lookup(address, "80")[1] end
        end
    end
    table.insert(threads, thread)
end

function init(args)
    wrk.headers["X-Pool"] = pool
    bytes = wrk.format()
end

function request()
    return bytes
end

function done(summary, latency)
    local e = summary.errors
    io.write(string.format(
        'bench {"requests":%d,"bytes":%d,"seconds":%.6f,"errors":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}\n',
        summary.requests, summary.bytes, summary.duration / 1e6,
        e.connect + e.read + e.write + e.status + e.timeout,
        e.connect, e.read, e.write, e.status, e.timeout))
end
