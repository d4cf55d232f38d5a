#!/usr/bin/env escript
%% Runs histories under Erlang/OTP's own supervisor and prints their traces: the counterpart of
%% crates/ostler-supervisor/tests/supervisor_erlang.rs, which defines histories and traces.
%%
%% Reads one history per line from stdin, as an Erlang term. Writes its trace to stdout, one event per line, then "END".
-mode(compile).
-export([init/1, start/3, start_simple/1, log/2]).

main(_) ->
    logger:remove_handler(default),
    logger:set_primary_config(level, all),
    ok = logger:add_handler(traces, ?MODULE, #{level => all, filters => [], filter_default => log}),
    loop().

loop() ->
    case io:read('') of
        eof -> ok;
        {ok, {parallel, Histories}} ->
            [io:put_chars([Trace, "END\n"]) || Trace <- in_parallel(Histories)],
            loop();
        {ok, History} ->
            [Trace] = in_parallel([History]),
            io:put_chars([Trace, "END\n"]),
            loop()
    end.

%% Each history runs in its own process, which collects the trace in its mailbox.
in_parallel(Histories) ->
    Self = self(),
    Runners = [spawn_monitor(fun() -> Self ! {self(), run(History)} end) || History <- Histories],
    [receive
         {Pid, Trace} -> Trace;
         {'DOWN', Monitor, process, Pid, Reason} when Reason =/= normal ->
             io_lib:format("runner failed: ~0p~n", [Reason])
     end || {Pid, Monitor} <- Runners].

run({Flags, Children, Steps}) ->
    process_flag(trap_exit, true),
    Labels = ets:new(labels, [public]),
    World = {self(), Labels},
    put(world, World),
    case supervisor:start_link(?MODULE, {World, top, Flags, Children}) of
        {ok, Top} ->
            ets:insert(Labels, {{sup, top}, Top}),
            First = [flush(), "ready\n" | settle_and_look(Top)],
            [First | steps(Steps, Top)];
        {error, {shutdown, {failed_to_start_child, Id, _}}} ->
            [flush(), io_lib:format("init failed ~p~n", [Id])]
    end.

steps([], Top) ->
    stop(Top);
steps([stop | _], Top) ->
    stop(Top);
steps([Step | Steps], Top) ->
    Said = step(Step),
    case settle_and_look(Top) of
        gone -> [flush(), Said, ended(Top)];
        Look -> [flush(), Said, Look | steps(Steps, Top)]
    end.

stop(Top) ->
    exit(Top, shutdown),
    Ended = ended(Top),
    [flush(), "stop\n", Ended].

ended(Top) ->
    receive {'EXIT', Top, Reason} -> io_lib:format("end ~s~n", [reason(Reason)]) end.

step({exit, Label, Reason}) ->
    case lookup({child, Label}) of
        undefined -> [];
        Pid ->
            Monitor = monitor(process, Pid),
            case Reason of
                killed -> exit(Pid, kill);
                _ -> Pid ! {die, Reason}
            end,
            receive {'DOWN', Monitor, process, Pid, noproc} -> [];
                    {'DOWN', Monitor, process, Pid, _} -> io_lib:format("exit ~s~n", [Label])
            end
    end;
step({wait, Time}) ->
    timer:sleep(Time),
    [];
step({start_simple, Child}) ->
    call(top, fun(Sup) -> supervisor:start_child(Sup, [Child]) end);
step({terminate_simple, Label}) ->
    case lookup({child, Label}) of
        undefined -> [];
        Pid -> call(top, fun(Sup) -> supervisor:terminate_child(Sup, Pid) end)
    end;
step({start_child, Name, Child}) ->
    call(Name, fun(Sup) -> supervisor:start_child(Sup, spec(Child)) end);
step({terminate, Name, Id}) ->
    call(Name, fun(Sup) -> supervisor:terminate_child(Sup, Id) end);
step({restart, Name, Id}) ->
    call(Name, fun(Sup) -> supervisor:restart_child(Sup, Id) end);
step({delete, Name, Id}) ->
    call(Name, fun(Sup) -> supervisor:delete_child(Sup, Id) end).

call(Name, Call) ->
    case lookup({sup, Name}) of
        undefined -> "no supervisor\n";
        Sup ->
            Reply = try Call(Sup) catch exit:_ -> gone end,
            io_lib:format("reply ~s~n", [reply(Reply)])
    end.

reply(gone) -> "gone";
reply(ok) -> "ok";
reply({ok, undefined}) -> "ignored";
reply({ok, Pid}) when is_pid(Pid) -> "started";
reply({error, {already_started, _}}) -> "already_started";
reply({error, {bad_combination, _}}) -> "invalid";
reply({error, Reason}) when Reason =:= already_present; Reason =:= not_found;
                            Reason =:= running; Reason =:= restarting -> atom_to_list(Reason);
reply({error, _}) -> "failed".

lookup(Key) ->
    {_, Labels} = get(world),
    case ets:lookup(Labels, Key) of
        [{_, Pid}] -> Pid;
        [] -> undefined
    end.

%% Everything is at rest when all pids listed by supervisors are alive and no child is being restarted.
settle_and_look(Top) ->
    try look(Top, top) of
        unsettled -> erlang:yield(), settle_and_look(Top);
        Lines -> Lines
    catch
        exit:_ ->
            case is_process_alive(Top) of
                true -> erlang:yield(), settle_and_look(Top);
                false -> gone
            end
    end.

look(Sup, Name) ->
    Children = lists:reverse(supervisor:which_children(Sup)),
    case lists:all(fun settled/1, Children) of
        false -> unsettled;
        true ->
            Seen = [io_lib:format(" ~s:~s", [id(Id), status(Pid)]) || {Id, Pid, _, _} <- Children],
            Counts = [proplists:get_value(Key, supervisor:count_children(Sup)) || Key <- [active, supervisors, workers]],
            Line = io_lib:format("~s~s ~w~n", [Name, Seen, Counts]),
            Nested = [look(Pid, Id) || {Id, Pid, supervisor, _} <- Children, is_pid(Pid)],
            case lists:member(unsettled, Nested) of
                true -> unsettled;
                false -> [Line | Nested]
            end
    end.

settled({_, undefined, _, _}) -> true;
settled({_, restarting, _, _}) -> false;
settled({_, Pid, _, _}) -> is_process_alive(Pid).

id(undefined) -> "t";
id(Id) -> atom_to_list(Id).

status(undefined) -> "undefined";
status(_) -> "up".

%% Logs and reports, in order of arrival.
flush() ->
    receive {trace, Line} -> [Line | flush()] after 0 -> [] end.

say(Format, Arguments) ->
    {Runner, _} = get(world),
    Runner ! {trace, io_lib:format(Format, Arguments)},
    ok.

%% Supervisors: the callback runs in the supervisor process, where it stores the world.
init({World, Name, {simple, Intensity, Period, Auto, {Restart, Significant, Shutdown}}, []}) ->
    put(world, World),
    put(name, Name),
    {ok, {#{strategy => simple_one_for_one, intensity => Intensity, period => Period, auto_shutdown => Auto},
          [#{id => t, start => {?MODULE, start_simple, []}, restart => Restart, significant => Significant,
             shutdown => Shutdown}]}};
init({World, Name, {Strategy, Intensity, Period, Auto}, Children}) ->
    put(world, World),
    put(name, Name),
    {ok, {#{strategy => Strategy, intensity => Intensity, period => Period, auto_shutdown => Auto},
          [spec(Child) || Child <- Children]}}.

spec({Id, Restart, Significant, Shutdown, Type, Body}) ->
    #{id => Id, start => {?MODULE, start, [Id, Type, Body]}, restart => Restart, significant => Significant,
      shutdown => Shutdown, type => Type}.

start(Id, supervisor, {Flags, Children}) ->
    World = {_, Labels} = get(world),
    say("start ~s~n", [Id]),
    case supervisor:start_link(?MODULE, {World, Id, Flags, Children}) of
        {ok, Pid} ->
            ets:insert(Labels, {{sup, Id}, Pid}),
            {ok, Pid};
        Error -> Error
    end;
start(Id, worker, {Starts, OnStop}) ->
    World = {_, Labels} = get(world),
    Nth = ets:update_counter(Labels, {nth, Id}, 1, {{nth, Id}, 0}),
    Outcome = case Nth =< length(Starts) of true -> lists:nth(Nth, Starts); false -> up end,
    say("start ~s ~s~n", [Id, Outcome]),
    case Outcome of
        ignore -> ignore;
        fail -> {error, no_start};
        up ->
            Starter = self(),
            Pid = spawn_link(fun() -> put(world, World), worker(Starter, Id, OnStop) end),
            receive {ready, Pid} -> ok end,
            ets:insert(Labels, {{child, Id}, Pid}),
            {ok, Pid}
    end.

start_simple({Id, Starts, OnStop}) -> start(Id, worker, {Starts, OnStop}).

worker(Starter, Id, OnStop) ->
    process_flag(trap_exit, true),
    Starter ! {ready, self()},
    worker_loop(Id, OnStop).

worker_loop(Id, OnStop) ->
    receive
        {die, Reason} -> exit(Reason);
        {'EXIT', _, _} when OnStop =:= never ->
            %% It may be killed before it can log anything.
            worker_loop(Id, OnStop);
        {'EXIT', _, _} ->
            say("stop ~s~n", [Id]),
            exit(OnStop)
    end.

%% The supervisors' reports, logged in the supervisor's own process.
log(#{msg := {report, #{label := {supervisor, Label}, report := Report}}}, _) ->
    case get(world) of
        undefined -> ok;
        _ -> report(Label, Report)
    end;
log(_, _) -> ok.

report(progress, Report) ->
    {started, Child} = lists:keyfind(started, 1, Report),
    say("progress ~s~n", [proplists:get_value(id, Child)]);
report(shutdown, Report) ->
    {offender, Child} = lists:keyfind(offender, 1, Report),
    say("reached_max_restart_intensity ~s~n", [proplists:get_value(id, Child)]);
report(Label, Report) ->
    {offender, Child} = lists:keyfind(offender, 1, Report),
    {reason, Reason} = lists:keyfind(reason, 1, Report),
    Line = io_lib:format("~s ~s ~s~n", [Label, proplists:get_value(id, Child), reason(Reason)]),
    [say("~s", [Line]) || _ <- lists:seq(1, proplists:get_value(nb_children, Child, 1))],
    ok.

reason({shutdown, {failed_to_start_child, _, _}}) -> "init_failed";
reason({shutdown, Why}) -> io_lib:format("shutdown_~s", [Why]);
reason(Reason) when is_atom(Reason) -> atom_to_list(Reason).
