-- What version 6 of the schema changes in rows that earlier versions have written; a new database has none.

-- A network with one output has two classes, 0 = no and 1 = yes. Earlier versions kept its maps, which are those of yes,
-- as class 0, though their arg-max classes counted as they do now. This is the one change of rows that are there.
UPDATE obeql_store.run_maps SET class_id = 1, class_name = CASE WHEN class_name = '0' THEN 'yes' ELSE class_name END
WHERE class_id = 0 AND map_id IN (
    SELECT map_id FROM obeql_store.maps
    WHERE model_hash IN (SELECT model_hash FROM obeql_store.model_rows WHERE n_classes = 1)
);
UPDATE obeql_store.maps SET class_id = 1
WHERE class_id = 0 AND model_hash IN (SELECT model_hash FROM obeql_store.model_rows WHERE n_classes = 1);
UPDATE obeql_store.prediction_rows
SET class_id = 1, class_name = CASE WHEN class_name = '0' THEN 'yes' ELSE class_name END
WHERE class_id = 0 AND model_hash IN (SELECT model_hash FROM obeql_store.model_rows WHERE n_classes = 1);
UPDATE obeql_store.model_rows
SET n_classes = 2, classes = CASE len(classes) WHEN 0 THEN ['no', 'yes'] ELSE ['not ' || classes[1], classes[1]] END
WHERE n_classes = 1;
